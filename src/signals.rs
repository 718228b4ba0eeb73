//! What the operating system asks of a run: to end, or to save what it has.
//!
//! A queue that takes a machine back sends SIGTERM (or what it was told to send) some seconds before it
//! kills; a person presses Ctrl-C. Both mean: finish the step, leave a whole checkpoint, go. SIGUSR1
//! means: leave a checkpoint and go on. A second SIGINT or SIGTERM ends the process at once, which no
//! file minds, since all of them are replaced by whole ones.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1};
use signal_hook::flag;

use crate::{Error, Result};

/// The exit status of a run that was stopped and can be gone on with: EX_TEMPFAIL of sysexits.h, which
/// queues understand as "again, please".
pub const STOPPED: u8 = 75;

/// What has been asked of this process. The default is never asked anything.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    /// The signal that asked for the end; 0: none.
    stop: Arc<AtomicUsize>,
    /// Set together with it, for the second signal to find.
    stopping: Arc<AtomicBool>,
    checkpoint: Arc<AtomicBool>,
}

impl Asked {
    /// Listens to SIGINT, SIGTERM and SIGUSR1 from now on, in place of ending at them.
    ///
    /// Error: the system refuses.
    pub fn by_signals() -> Result<Asked> {
        let asked = Asked::default();
        let refused = |e: std::io::Error| Error::Run(format!("cannot listen to signals: {e}"));
        for signal in [SIGINT, SIGTERM] {
            // In this order: at the first signal the flag is not yet set when it is looked at.
            let status = i32::from(STOPPED);
            flag::register_conditional_shutdown(signal, status, asked.stopping.clone())
                .map_err(refused)?;
            flag::register(signal, asked.stopping.clone()).map_err(refused)?;
            let number = usize::try_from(signal).expect("signals are positive");
            flag::register_usize(signal, asked.stop.clone(), number).map_err(refused)?;
        }
        flag::register(SIGUSR1, asked.checkpoint.clone()).map_err(refused)?;
        Ok(asked)
    }

    /// Who asks for the end, if anyone does.
    pub fn stop(&self) -> Option<&'static str> {
        match i32::try_from(self.stop.load(Ordering::Relaxed)) {
            Ok(0) => None,
            Ok(SIGINT) => Some("SIGINT"),
            _ => Some("SIGTERM"),
        }
    }

    /// Whether a checkpoint has been asked for since this was asked last.
    pub fn take_checkpoint(&self) -> bool {
        self.checkpoint.swap(false, Ordering::Relaxed)
    }
}
