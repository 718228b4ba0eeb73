//! `ptycho-gpu simulate`.

use crate::Result;

#[derive(Debug, clap::Args)]
pub struct Args {}

pub fn run(_args: Args) -> Result<()> {
    Ok(())
}
