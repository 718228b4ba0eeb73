//! `infer` where the memory is too small for patterns or canvas: what has room, and the job with a canvas
//! in bands.

use std::path::Path;
use std::time::Instant;

use super::bad_frames;
use super::infer::{Args, Line, judged, record, record_path, say};
use super::pictures::{self, Pictures};
use crate::Result;
use crate::backend::Chosen;
use crate::checkpoint::Checkpoint;
use crate::data::bad_frames::ROUNDS;
use crate::data::{BadFrame, Scan};
use crate::infer::{Network, Prepared};
use crate::large::Large;
use crate::memory::{self, Budget};
use crate::metrics::{self, DataSpace};
use crate::report;
use crate::save::Save;

/// Bytes of a canvas pixel in memory: the sums, the results, and what judging, drawing and writing them
/// take beside.
const CANVAS: u64 = 80;

/// Bytes of a pattern beside its pixels: positions, figures, its place on the canvas.
const PER_PATTERN: u64 = 300;

/// With less, bands are too thin to be of use.
const LEAST: u64 = 4 << 20;

/// Bytes of a pixel of the preview, with all pictures that are made of it.
const PREVIEW: u64 = 160;

/// Most pixels along a side of the preview, and the fewest.
const SIDES: [usize; 2] = [64, 2048];

/// Bytes that the patterns of a scan may take: while they are read they are there twice, and the other
/// half is for the network and the canvas.
pub(super) fn for_patterns(memory: &Budget) -> u64 {
    memory.spare() / 4
}

/// None where the whole canvas has room in memory, else the bytes that there are for bands of it.
///
/// # Errors
/// Not even for those, or what is asked for needs the whole canvas.
pub(super) fn needed(
    args: &Args,
    network: &Network,
    scan: &Scan,
    prepared: &Prepared,
    memory: &Budget,
) -> Result<Option<u64>> {
    let (canvas, used) = (prepared.canvas(), prepared.patterns() as u64);
    let [buffers, weights] = network.bytes();
    let held = if scan.amplitude.is_filed() { 0 } else { 4 * scan.pixels() };
    let mut needs = vec![
        ("the program", memory::BASE),
        ("the network", buffers + 2 * weights),
        ("patterns", held),
        ("their positions and figures", PER_PATTERN * used),
    ];
    if args.patches {
        needs.push(("their patches", 8 * used * (scan.side() * scan.side()) as u64));
    }
    let fixed: u64 = needs.iter().map(|(_, bytes)| bytes).sum();
    needs.push(("the canvas", CANVAS.saturating_mul(canvas.pixels())));
    if memory.check(&needs, "").is_ok() {
        return Ok(None);
    }
    let other = |save: &Save| !matches!(save, Save::Npz | Save::Png);
    let whole = [
        ("--refine", args.refine.is_some()),
        ("--patches", args.patches),
        ("--save", args.save.save.iter().any(other)),
    ];
    let whole: Vec<&str> =
        whole.iter().filter(|(_, asked)| *asked).map(|(flag, _)| *flag).collect();
    if !whole.is_empty() {
        let whole = whole.join(" and ");
        memory.check(&needs, &format!("leave out {whole}, or raise --memory-limit"))?;
    }
    needs.pop();
    needs.push(("a band of the canvas", LEAST));
    memory.check(&needs, "raise --memory-limit, or use a smaller --batch-size")?;
    let bytes = memory.bytes - fixed;
    log::info!(
        "a canvas of {}x{} pixels takes {} in memory, more than {memory}: it is stitched by bands",
        canvas.height,
        canvas.width,
        memory::megabytes(CANVAS.saturating_mul(canvas.pixels()))
    );
    Ok(Some(bytes))
}

/// One inference with a canvas in bands.
pub(super) struct Job<'a> {
    pub args: &'a Args,
    pub network: &'a Network,
    pub scan: &'a mut Scan,
    /// Of the bands.
    pub bytes: u64,
    pub started: Instant,
}

/// What the network makes of a scan.
struct Applied {
    result: Large,
    figures: DataSpace,
    bad: Vec<BadFrame>,
    /// Of network and stitching.
    seconds: f64,
}

impl Job<'_> {
    /// Reconstructs, and leaves arrays, pictures and record in the output folder.
    pub fn run(
        self,
        prepared: Prepared,
        checkpoint: &Checkpoint,
        device: &Chosen,
        path: &Path,
    ) -> Result<DataSpace> {
        let Job { args, network, started, .. } = self;
        let folder = &args.output_dir;
        let mut applied = self.apply(prepared)?;
        for _ in 0..ROUNDS {
            if !bad_frames::reject(&args.reading, self.scan, &applied.bad)? {
                break;
            }
            applied = self.apply(network.prepare(self.scan, &args.options())?)?;
        }
        let Applied { result, figures, bad, seconds } = applied;
        let scan = &*self.scan;
        let spread = result.spread()?;
        let mut record = record(network, checkpoint, path, scan, device);
        let times = [seconds, started.elapsed().as_secs_f64()];
        let verdict = judged(&mut record, &result.rest, &figures, spread, times);
        bad_frames::leave(scan, &bad, folder, &mut record)?;
        let metadata = serde_json::Value::Object(record.json().clone());
        let frames = metrics::data_space::typical_frames(&result.explained(scan), &figures)?;
        result.write_with(&folder.join("reconstruction.npz"), scan, &metadata, |file| {
            pictures::write_frames(file, &figures, &frames)
        })?;
        self.pictures(&result, &figures, &frames)?;
        record.write(record_path(folder, false))?;
        say(&result.rest, &figures, &verdict, folder);
        if !args.no_report {
            log::info!("no report.html, which holds the whole object");
        }
        if args.json {
            report::print_json(&Line { figures: &figures, verdict: &verdict })?;
        }
        Ok(figures)
    }

    fn apply(&self, prepared: Prepared) -> Result<Applied> {
        let Job { args, network, bytes, .. } = self;
        let scan = &*self.scan;
        let scratch = args.scratch_dir.as_ref().unwrap_or(&args.output_dir);
        let computed = Instant::now();
        let (bands, rest) =
            network.reconstruct_in_bands(scan, prepared, &args.options(), bytes / 4, scratch)?;
        let result = Large { bands, rest };
        let seconds = computed.elapsed().as_secs_f64();
        let figures = metrics::data_space(&result.explained(scan))?;
        let bad = metrics::bad_frames(scan, &result.explained(scan), &figures)?;
        Ok(Applied { result, figures, bad, seconds })
    }

    /// All pictures, as large as there is memory for.
    fn pictures(
        &self,
        result: &Large,
        figures: &DataSpace,
        frames: &[metrics::Shown],
    ) -> Result<()> {
        let side = ((self.bytes / (2 * PREVIEW)) as f64).sqrt() as usize;
        let preview = result.preview(side.clamp(SIDES[0], SIDES[1]))?;
        let by = preview.by;
        if by > 1 {
            log::info!("a pixel of the pictures is the mean of {by}x{by} of the object");
        }
        let shown = preview.result.covered();
        let mut pictures = Pictures::new(&preview.result, self.scan, shown, &self.args.output_dir);
        // Its pixels are those of the object.
        pictures.probe()?;
        pictures.pixel_m = pictures.pixel_m.map(|pixel| pixel.map(|side| side * by as f64));
        pictures.object()?;
        let consistency = &preview.result.stitched.consistency;
        pictures.map("consistency.png", consistency, ("Overlap consistency", ""))?;
        pictures.positions(&[])?;
        pictures.residual(figures)?;
        pictures.patterns(frames)
    }
}
