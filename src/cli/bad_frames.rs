//! Bad frames: left out where that is asked for, and listed in any case.

use std::fmt::Write as _;
use std::path::Path;

use crate::Result;
use crate::data::bad_frames::describe;
use crate::data::{BadFrame, Reading, RejectFrames, Scan};
use crate::report::{RunRecord, atomic_write};

/// The table in the folder of a result.
const FILE: &str = "bad_frames.csv";

/// Whether those that are found are to be left out.
pub(super) fn automatic(reading: &Reading) -> bool {
    reading.reject_frames == Some(RejectFrames::Auto)
}

/// Leaves out what was found where --reject-frames auto asks for it; whether there was anything.
pub(super) fn reject(reading: &Reading, scan: &mut Scan, found: &[BadFrame]) -> Result<bool> {
    Ok(automatic(reading) && !found.is_empty() && scan.leave_out(found, true)?)
}

/// Writes the table of the frames that are left out and of those that are `found` to be bad but used, which
/// are said and noted in the record too.
pub(super) fn leave(
    scan: &Scan,
    found: &[BadFrame],
    folder: &Path,
    record: &mut RunRecord,
) -> Result<()> {
    let rejected = scan.rejected.frames().iter().map(|bad| (bad, "no"));
    let mut all: Vec<(&BadFrame, &str)> =
        rejected.chain(found.iter().map(|bad| (bad, "yes"))).collect();
    all.sort_by_key(|(bad, _)| bad.frame);
    let mut text = String::from("frame,fault,used,residual,note\n");
    for (bad, used) in all {
        let residual = bad.residual.map(|r| format!("{r:.5}")).unwrap_or_default();
        let (frame, name, note) = (bad.frame, bad.fault.name(), bad.fault.to_string());
        writeln!(text, "{frame},{name},{used},{residual},\"{note}\"").expect("a string grows");
    }
    atomic_write(folder.join(FILE), text.as_bytes())?;
    record.result("bad_frames", found);
    if !found.is_empty() {
        log::warn!(
            "bad are {}; --reject-frames auto leaves them out, --reject-frames {} those of this list",
            describe(found, scan.len()),
            folder.join(FILE).display()
        );
    }
    Ok(())
}
