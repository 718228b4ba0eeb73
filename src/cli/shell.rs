//! `ptycho-gpu completions` and `man`: what a shell wants to know of the program.

use std::path::PathBuf;

use clap::CommandFactory;
use clap_complete::Shell;

use super::Cli;
use super::stdout::print;
use crate::report::create_folder;
use crate::{Error, Result};

#[derive(Clone, Debug, clap::Args)]
pub struct Completions {
    /// Shell that is to complete commands and flags
    #[arg(value_enum)]
    pub shell: Shell,
}

#[derive(Clone, Debug, clap::Args)]
pub struct Man {
    /// Folder for the pages of all commands [default: the page of the program, to stdout]
    #[arg(long, value_name = "FOLDER")]
    pub output_dir: Option<PathBuf>,
}

/// Prints a script that the shell sources.
pub fn completions(args: Completions) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "ptycho-gpu", &mut script);
    print(&script)
}

/// Prints a manual page, or writes those of all commands.
pub fn man(args: Man) -> Result<()> {
    let Some(folder) = args.output_dir else {
        let mut page = Vec::new();
        let done = clap_mangen::Man::new(Cli::command()).render(&mut page);
        done.map_err(|error| Error::Run(format!("cannot make the manual page: {error}")))?;
        return print(&page);
    };
    create_folder(&folder)?;
    clap_mangen::generate_to(Cli::command(), &folder).map_err(Error::io("write into", &folder))
}
