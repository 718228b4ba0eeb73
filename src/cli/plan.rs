//! `ptycho-gpu plan`: what a network is made of and what it takes, before anything is allocated.

use std::fmt::Write as _;

use serde_json::json;

use super::stdout::print;
use crate::Result;
use crate::backend::Chosen;
use crate::config::{
    AmpActivation, Architecture, Head, LossConfig, ModelConfig, Optimiser, OptimiserConfig,
    OutputMode, Precision, RowModes,
};
use crate::data::check_network_side;
use crate::graph::{self, Group, Role, Slot, Stage, Step, Value};
use crate::launch::{Arg, Launch};
use crate::memory::{self, Budget};
use crate::models::plans::{self, Sizes};
use crate::plan::Plan;
use crate::report::print_json;
use crate::train;

#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Side of a pattern in pixels: 64, 128 or 256
    #[arg(long, value_name = "PIXELS", value_parser = side, default_value_t = ModelConfig::default().n)]
    pub n: usize,
    /// A group is the square of this many neighbouring patterns: 1, 2 or 3
    #[arg(long, value_name = "G", value_parser = gridsize, default_value_t = ModelConfig::default().gridsize)]
    pub gridsize: usize,
    /// The network
    #[arg(long, value_enum, ignore_case = true, default_value_t)]
    pub architecture: Architecture,
    /// cnn: factor on the channels of every layer
    #[arg(long, value_name = "S", value_parser = positive, default_value_t = ModelConfig::default().n_filters_scale)]
    pub n_filters_scale: usize,
    /// cnn: how the centre and the border of a patch are put together
    #[arg(long, value_enum, ignore_case = true, default_value_t)]
    pub head: Head,
    /// What makes an amplitude of the last layer's numbers
    #[arg(long, value_enum, ignore_case = true, default_value_t)]
    pub amp_activation: AmpActivation,
    /// cnn: attention in the encoder
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true",
          value_name = "BOOL", default_value_t = false)]
    pub cbam_encoder: bool,
    /// cnn: batch normalisation after the convolutions
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true",
          value_name = "BOOL", default_value_t = false)]
    pub batch_norm: bool,
    /// Others than cnn: channels at full size
    #[arg(long, value_name = "CHANNELS", value_parser = positive, default_value_t = ModelConfig::default().width)]
    pub width: usize,
    /// Others than cnn: frequencies that a spectral layer keeps
    #[arg(long, value_name = "MODES", value_parser = positive, default_value_t = ModelConfig::default().fourier_modes)]
    pub fourier_modes: usize,
    /// Others than cnn: amplitude and phase, or real and imaginary part
    #[arg(long, value_enum, ignore_case = true, default_value_t)]
    pub output_mode: OutputMode,
    /// fno, fno_vanilla, srunet: which of the columns' frequencies are kept
    #[arg(long, value_enum, ignore_case = true, default_value_t)]
    pub row_modes: RowModes,
    /// ffno, fno, fno_vanilla: spectral blocks
    #[arg(long, value_name = "BLOCKS", value_parser = positive, default_value_t = ModelConfig::default().blocks)]
    pub blocks: usize,
    /// ffno: one spectral layer for all blocks
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true",
          value_name = "BOOL", default_value_t = true)]
    pub share_spectral_weights: bool,
    /// ffno: residual blocks of convolutions behind the spectral ones
    #[arg(long, value_name = "BLOCKS", default_value_t = ModelConfig::default().refiners)]
    pub refiners: usize,
    /// Groups per step
    #[arg(long, value_name = "GROUPS", value_parser = positive, default_value_t = 16)]
    pub batch_size: usize,

    /// Patterns of the scan, which training keeps in memory
    #[arg(long, value_name = "PATTERNS", value_parser = positive, default_value_t = 1000)]
    pub frames: usize,
    /// Probe modes
    #[arg(long, value_name = "P", value_parser = positive, default_value_t = 1)]
    pub modes: usize,
    /// Largest displacement of a patch from the centre of its group, for gridsize 2 and 3
    #[arg(long, value_name = "PIXELS", value_parser = positive, default_value_t = 8)]
    pub reach: usize,
    /// Learn the probe together with the object
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true",
          value_name = "BOOL", default_value_t = false)]
    pub probe_trainable: bool,
    /// Rule that turns a gradient into a step
    #[arg(long, visible_alias = "optimiser", value_enum, ignore_case = true, default_value_t)]
    pub optimizer: Optimiser,

    /// Of convolutions on a GPU: auto means fp32
    #[arg(long, value_enum, ignore_case = true, default_value_t)]
    pub precision: Precision,
    /// Memory of the machine that a training on the CPU may take, such as 8e9, 16GB or 50%: says whether
    /// the patterns fit, are read from disk, or not even that
    #[arg(long, value_name = "BYTES", conflicts_with = "inference")]
    pub memory_limit: Option<memory::Limit>,

    /// The plan that applies the network instead of the one that trains it
    #[arg(long)]
    pub inference: bool,
    /// List every operation with what it writes
    #[arg(long)]
    pub ops: bool,
    /// List the kernel launches of the operations
    #[arg(long)]
    pub launches: bool,
    /// Print one line of JSON instead of tables
    #[arg(long)]
    pub json: bool,
}

fn side(text: &str) -> Result<usize, String> {
    let side = positive(text)?;
    check_network_side(side).map_err(|error| error.to_string())?;
    Ok(side)
}

fn gridsize(text: &str) -> Result<usize, String> {
    positive(text).and_then(|g| if g <= 3 { Ok(g) } else { Err("not 1, 2 or 3".into()) })
}

fn positive(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|&number| number > 0).ok_or("not a whole number above 0".into())
}

impl Args {
    fn model(&self) -> ModelConfig {
        ModelConfig {
            n: self.n,
            architecture: self.architecture,
            gridsize: self.gridsize,
            n_filters_scale: self.n_filters_scale,
            head: self.head,
            amp_activation: self.amp_activation,
            cbam_encoder: self.cbam_encoder,
            batch_norm: self.batch_norm,
            width: self.width,
            fourier_modes: self.fourier_modes,
            blocks: self.blocks,
            row_modes: self.row_modes,
            output_mode: self.output_mode,
            share_spectral_weights: self.share_spectral_weights,
            refiners: self.refiners,
            ..ModelConfig::default()
        }
    }

    /// The plan that these flags describe.
    pub fn plan(&self) -> Plan {
        match self.inference {
            true => plans::inference_in(self.rounded(), &self.model(), self.batch_size, None).plan,
            false => self.training(self.frames),
        }
    }

    fn rounded(&self) -> graph::Precision {
        match self.precision {
            Precision::Auto | Precision::Fp32 => graph::Precision::Fp32,
            Precision::Tf32 => graph::Precision::Tf32,
            Precision::Bf16 => graph::Precision::Bf16,
        }
    }

    /// The plan that trains with so many patterns in its buffers.
    fn training(&self, frames: usize) -> Plan {
        let optimiser = OptimiserConfig {
            kind: self.optimizer,
            probe_trainable: self.probe_trainable,
            ..OptimiserConfig::default()
        };
        let sizes = Sizes {
            batch: self.batch_size,
            frames,
            scans: 1,
            modes: self.modes,
            reach: self.reach as f64,
            typical: 1.0,
        };
        let loss = LossConfig::default();
        plans::training_in(self.rounded(), &self.model(), &loss, &optimiser, &sizes).plan
    }

    /// Bytes of all patterns as numbers of 32 bits.
    fn pattern_bytes(&self) -> u64 {
        4 * self.frames as u64 * (self.n * self.n) as u64
    }

    /// Memory of the machine for a training on the CPU: with its patterns in memory, and read from disk.
    fn machine(&self) -> [Needs; 2] {
        let patterns = self.frames as u64;
        let needs =
            |plan: Plan, held: u64| train::plan::needs(&plan, plan.bytes() as u64, patterns, held);
        let batches = 2 * self.batch_size * self.model().channels();
        let held = train::plan::WHOLE * self.pattern_bytes();
        [needs(self.training(self.frames), held), needs(self.training(batches), 0)]
    }
}

/// Prints the tables.
pub fn run(args: Args) -> Result<()> {
    args.model().validate()?;
    let (mut figures, mut text) = match args.json {
        true => (figures(&args), String::new()),
        false => (serde_json::Value::Null, describe(&args)),
    };
    if let Some(limit) = args.memory_limit {
        let needs = args.machine();
        let fits = place(&needs, args.pattern_bytes(), &Budget::new(Some(limit)))?;
        text += &("\n".to_owned() + &machine(&needs, fits));
        let sums = needs.map(|needs| needs.iter().map(|(_, bytes)| bytes).sum::<u64>());
        figures["machine"] =
            json!({ "in_memory_bytes": sums[0], "from_disk_bytes": sums[1], "patterns": fits });
    }
    match args.json {
        true => print_json(&figures),
        false => print(text),
    }
}

/// Bytes of each part of a training, with its name.
type Needs = [(&'static str, u64); 5];

/// Where the patterns are in a training that may take so much.
///
/// # Errors
/// It is too little for a training from disk too.
fn place(needs: &[Needs; 2], patterns: u64, memory: &Budget) -> Result<&'static str> {
    let room = train::plan::room(memory.spare(), &Chosen::Cpu, 1);
    if patterns <= room && memory.check(&needs[0], "").is_ok() {
        return Ok("in memory");
    }
    let remedy = "use a smaller --batch-size, a smaller network, or a higher --memory-limit";
    memory.check(&needs[1], remedy)?;
    Ok("on disk")
}

/// One line for each part of what a training on the CPU takes.
fn machine(needs: &[Needs; 2], fits: &str) -> String {
    let titles = ["machine", "patterns in memory", "patterns on disk"];
    let mut text = format!("{:<20} {:>20} {:>20}\n", titles[0], titles[1], titles[2]);
    let mut line = |name: &str, bytes: [u64; 2]| {
        let [held, filed] = bytes.map(|bytes| grouped(bytes as usize));
        writeln!(text, "{name:<20} {held:>20} {filed:>20}").expect(STRING);
    };
    for (held, filed) in needs[0].iter().zip(&needs[1]) {
        line(held.0, [held.1, filed.1]);
    }
    line("sum", [0, 1].map(|i| needs[i].iter().map(|(_, bytes)| bytes).sum()));
    writeln!(text, "within --memory-limit the patterns are {fits}").expect(STRING);
    text
}

/// What the tables say, as JSON.
fn figures(args: &Args) -> serde_json::Value {
    let plan = args.plan();
    let parameters: Vec<_> = plan
        .of_role(Role::Param)
        .iter()
        .map(|(_, slot)| json!({ "name": slot.name, "shape": slot.shape, "count": slot.len() }))
        .collect();
    let network = plan.of_role(Role::Param);
    let network = network.iter().filter(|(_, slot)| slot.group == Group::Network);
    let network: usize = network.map(|(_, slot)| slot.len()).sum();
    let parts: Vec<_> = plan
        .parts()
        .iter()
        .map(|part| {
            json!({
                "region": region(part.role),
                "buffers": part.buffers,
                "numbers": part.elements,
                "bytes": part.bytes,
            })
        })
        .collect();
    let stages: Vec<_> = STAGES
        .into_iter()
        .filter(|&stage| stage != Stage::Prepare || plan.stage(stage).count() > 0)
        .map(|stage| {
            let kernels: usize = plan.stage(stage).map(|step| step.op.launches().len()).sum();
            let operations = plan.stage(stage).count();
            json!({ "stage": name(stage), "operations": operations, "kernels": kernels })
        })
        .collect();
    let mut all = json!({
        "parameters": parameters,
        "network_parameters": network,
        "memory": parts,
        "bytes": plan.bytes(),
        "work_bytes_without_reuse": plan.work_without_reuse(),
        "stages": stages,
    });
    if args.ops {
        let write = |v: &Value| {
            let (slot, bytes) = (&plan.slots[v.0], plan.range(*v).len() * size_of::<f32>());
            json!({ "buffer": slot.name, "shape": slot.shape, "bytes": bytes })
        };
        let step = |step: &Step| {
            let writes: Vec<_> = step.op.writes().iter().map(write).collect();
            json!({ "stage": name(step.stage), "operation": step.op.name(), "writes": writes })
        };
        all["operations"] = plan.steps.iter().map(step).collect();
    }
    if args.launches {
        let launches = plan.steps.iter().flat_map(|step| step.op.launches());
        let launch = |Launch { kernel, grid, block, shared, args, .. }: Launch| {
            let kinds: String = args.iter().map(kind).collect();
            json!({
                "kernel": kernel, "grid": grid, "block": block, "shared": shared,
                "arguments": kinds,
            })
        };
        all["launches"] = launches.map(launch).collect();
    }
    all
}

/// All tables that `args` ask for.
pub fn describe(args: &Args) -> String {
    let plan = args.plan();
    let mut text = parameters(&plan) + "\n" + &memory(&plan) + "\n" + &stages(&plan);
    if args.ops {
        text += &("\n".to_owned() + &operations(&plan));
    }
    if args.launches {
        text += &("\n".to_owned() + &launches(&plan));
    }
    text
}

const STAGES: [Stage; 4] = [Stage::Prepare, Stage::Forward, Stage::Backward, Stage::Update];

const STRING: &str = "a string grows as needed";

/// One line for each layer: the shapes of its parameters, and how many numbers they hold.
fn parameters(plan: &Plan) -> String {
    let mut text = format!("{:<44} {:<28} {:>12}\n", "layer", "shapes", "parameters");
    let mut layers: Vec<(Group, &str, Vec<&Slot>)> = Vec::new();
    for (_, slot) in plan.of_role(Role::Param) {
        let layer = slot.name.rsplit_once('.').map_or(slot.name.as_str(), |(layer, _)| layer);
        match layers.last_mut() {
            Some((_, name, slots)) if *name == layer => slots.push(slot),
            _ => layers.push((slot.group, layer, vec![slot])),
        }
    }
    let mut network = 0;
    for (group, layer, slots) in layers {
        let count: usize = slots.iter().map(|slot| slot.len()).sum();
        let shapes: Vec<String> = slots.iter().map(|slot| shape(&slot.shape)).collect();
        writeln!(text, "{layer:<44} {:<28} {:>12}", shapes.join(" + "), grouped(count))
            .expect(STRING);
        network += if group == Group::Network { count } else { 0 };
    }
    writeln!(text, "{:<73} {:>12}", "network", grouped(network)).expect(STRING);
    text
}

/// One line for each part of the arena.
fn memory(plan: &Plan) -> String {
    let mut text = format!("{:<20} {:>8} {:>16} {:>18}\n", "region", "buffers", "numbers", "bytes");
    let mut line = |name: &str, buffers: usize, numbers: usize, bytes: usize| {
        let (buffers, numbers, bytes) = (grouped(buffers), grouped(numbers), grouped(bytes));
        writeln!(text, "{name:<20} {buffers:>8} {numbers:>16} {bytes:>18}").expect(STRING);
    };
    let parts = plan.parts();
    for part in &parts {
        line(region(part.role), part.buffers, part.elements, part.bytes);
    }
    let sum = |of: fn(&crate::plan::Part) -> usize| parts.iter().map(of).sum();
    line("arena", sum(|p| p.buffers), sum(|p| p.elements), plan.bytes());
    let saved = plan.work_without_reuse();
    writeln!(text, "work buffers would take {} bytes if none shared memory", grouped(saved))
        .expect(STRING);
    text
}

fn region(role: Role) -> &'static str {
    match role {
        Role::Param => "parameters",
        Role::ParamGrad => "gradients",
        Role::GradSum => "sums of gradients",
        Role::Moment1 => "first moments",
        Role::Moment2 => "second moments",
        Role::State => "state",
        Role::Input => "inputs",
        Role::Output => "outputs",
        Role::Packed => "packed weights",
        Role::Table => "tables",
        Role::Work => "work",
        Role::Region => "views",
    }
}

/// How many operations run in each stage, and how many kernels a GPU launches for them.
fn stages(plan: &Plan) -> String {
    let mut text = format!("{:<10} {:>11} {:>14}\n", "stage", "operations", "kernels");
    for stage in STAGES {
        let count = plan.stage(stage).count();
        let kernels: usize = plan.stage(stage).map(|step| step.op.launches().len()).sum();
        if count > 0 {
            writeln!(text, "{:<10} {count:>11} {kernels:>14}", name(stage)).expect(STRING);
        }
    }
    text
}

fn name(stage: Stage) -> &'static str {
    match stage {
        Stage::Prepare => "prepare",
        Stage::Forward => "forward",
        Stage::Backward => "backward",
        Stage::Update => "update",
    }
}

/// One line for each buffer that an operation writes, in the order in which they run.
fn operations(plan: &Plan) -> String {
    let titles = ["stage", "operation", "writes", "shape"];
    let [stage, op, writes, dims] = titles;
    let mut text = format!("{stage:<9} {op:<22} {writes:<48} {dims:<20} {:>14}\n", "bytes");
    for step in &plan.steps {
        let (mut stage, mut op) = (name(step.stage), step.op.name());
        for v in step.op.writes() {
            let (slot, bytes) = (&plan.slots[v.0], plan.range(v).len() * size_of::<f32>());
            let dims = if slot.role == Role::Region { "flat".into() } else { shape(&slot.shape) };
            let bytes = grouped(bytes);
            writeln!(text, "{stage:<9} {op:<22} {:<48} {dims:<20} {bytes:>14}", slot.name)
                .expect(STRING);
            (stage, op) = ("", "");
        }
    }
    text
}

/// One line for each launch.
fn launches(plan: &Plan) -> String {
    let mut text = format!(
        "{:<28} {:>16} {:>6} {:>7}  arguments (b buffer, i int, f float)\n",
        "kernel", "grid", "block", "shared"
    );
    for launch in plan.steps.iter().flat_map(|step| step.op.launches()) {
        let Launch { kernel, grid, block, shared, args, .. } = launch;
        let kinds: String = args.iter().map(kind).collect();
        writeln!(text, "{kernel:<28} {:>16} {block:>6} {shared:>7}  {kinds}", shape(&grid))
            .expect(STRING);
    }
    text
}

fn kind(arg: &Arg) -> char {
    match arg {
        Arg::Buffer(Value(_)) => 'b',
        Arg::Int(_) => 'i',
        Arg::Float(_) => 'f',
    }
}

/// `16×64×64`.
fn shape(sizes: &[impl ToString]) -> String {
    sizes.iter().map(ToString::to_string).collect::<Vec<_>>().join("×")
}

/// `1,234,567`.
fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let comma = |i: usize| if i > 0 && (digits.len() - i).is_multiple_of(3) { "," } else { "" };
    digits.char_indices().map(|(i, digit)| format!("{}{digit}", comma(i))).collect()
}
