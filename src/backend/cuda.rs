//! CUDA backend: the kernels of a whole step are recorded once as a graph, then replayed.
//!
//! The driver is looked for when it is needed, so that one binary serves machines with and without
//! a GPU. One stream carries all work, a second one the patterns that do not fit on the device.

use std::collections::{BTreeMap, HashMap};
use std::env;
use std::iter;
use std::ops::{Range, RangeInclusive};
use std::sync::Arc;

use cudarc::driver::{
    CudaContext, CudaEvent, CudaFunction, CudaGraph, CudaSlice, CudaStream, DevicePtr, DriverError,
    LaunchConfig, PinnedHostSlice, PushKernelArg, result, sys,
};
use cudarc::nvrtc::Ptx;

use super::{Backend, Description};
use crate::graph::{Role, Slot, Stage, Value};
use crate::launch::{Arg, Launch};
use crate::plan::Plan;
use crate::{Error, Result};

/// All kernels, compiled; empty where the crate was built without nvcc.
pub(crate) const KERNELS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/kernels.fatbin"));

/// The CUDA release that compiled the kernels; an older driver may not load them.
const CUDA: i32 = 13000;

/// The oldest compute capability that the kernels are compiled for.
const OLDEST: (i32, i32) = (8, 0);

/// The oldest whose tensor cores know TF32.
const TENSOR_CORES: (i32, i32) = (8, 0);

/// Memory that plans leave free for the driver's own needs, bytes.
const RESERVE: usize = 128 << 20;

/// Dynamic shared memory that a kernel gets without asking, bytes.
pub(crate) const SHARED_UNASKED: u32 = 48 * 1024;

/// Steps between two looks at the losses: a look costs about as much as a short step.
const PATIENCE: usize = 32;

/// Bytes of an element of the arena.
const ELEMENT: usize = size_of::<f32>();

/// A GPU that can run the kernels.
#[derive(Clone, Debug)]
pub struct Device {
    pub index: usize,
    pub name: String,
    pub compute_capability: (i32, i32),
    /// CUDA version of the driver, such as 13000.
    pub driver: i32,
    /// Bytes of memory.
    pub memory: usize,
    /// Kept, because to open a device takes long.
    context: Arc<CudaContext>,
}

impl Device {
    /// The device of this index.
    ///
    /// # Errors
    /// [`Error::Device`]: no driver, one that is too old, no such device, or one without kernels.
    pub fn find(index: usize) -> Result<Device> {
        let count = count()?;
        if index >= count {
            return Err(Error::Device(format!(
                "there is no cuda:{index}: the driver shows {count} device(s), cuda:0 to \
                 cuda:{}{}",
                count.saturating_sub(1),
                visible()
            )));
        }
        let driver = driver_version()?;
        if driver < CUDA {
            return Err(Error::Device(format!(
                "the NVIDIA driver supports CUDA {}, but the kernels need {} or later: install a \
                 newer driver, or use --device cpu",
                version(driver),
                version(CUDA)
            )));
        }
        let context = CudaContext::new(index).map_err(failed("open the device"))?;
        let name = context.name().map_err(failed("ask for the device's name"))?;
        let compute_capability =
            context.compute_capability().map_err(failed("ask for the compute capability"))?;
        if compute_capability < OLDEST {
            return Err(Error::Device(format!(
                "cuda:{index} is a {name} of compute capability {}.{}, but the kernels need {}.{} \
                 or later: use --device cpu",
                compute_capability.0, compute_capability.1, OLDEST.0, OLDEST.1
            )));
        }
        let memory = context.total_mem().map_err(failed("ask for the device's memory"))?;
        // SAFETY: what another stream than that of an allocation does with it is ordered by events
        // of our own, in `upload`. Those of the library would be recorded into captured graphs.
        unsafe { context.disable_event_tracking() };
        Ok(Device { index, name, compute_capability, driver, memory, context })
    }

    /// What a record of a run says about it.
    pub fn describe(&self) -> Description {
        let Device { index, name, compute_capability: (major, minor), driver, memory, .. } = self;
        Description::Cuda {
            index: *index,
            name: name.clone(),
            compute_capability: format!("{major}.{minor}"),
            memory_bytes: *memory,
            driver_release: driver_release(),
            driver_cuda: version(*driver),
            kernels_cuda: version(CUDA),
        }
    }

    /// Whether TF32 is faster than single precision: not where the CPU executes the kernels
    /// (tests/virtual/).
    pub fn has_tensor_cores(&self) -> bool {
        self.compute_capability >= TENSOR_CORES && !self.name.contains("virtual device")
    }

    /// Bytes that a plan may take.
    pub fn free_memory(&self) -> Result<usize> {
        let info = self.context.mem_get_info().map_err(failed("ask for the free memory"))?;
        Ok(info.0.saturating_sub(RESERVE))
    }
}

impl std::fmt::Display for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        self.describe().fmt(f)
    }
}

/// Devices that the driver shows.
fn count() -> Result<usize> {
    if KERNELS.is_empty() {
        return Err(Error::Device(
            "this program was built without nvcc, so it holds no kernels: build it again after \
             scripts/get-nvcc, or use --device cpu"
                .into(),
        ));
    }
    // SAFETY: loads the driver's library, as any use of the driver does.
    if !unsafe { sys::is_culib_present() } {
        return Err(Error::Device(
            "there is no NVIDIA driver: libcuda.so.1 was not found; install the driver, put its \
             folder on LD_LIBRARY_PATH, or use --device cpu"
                .into(),
        ));
    }
    match CudaContext::device_count() {
        Ok(count) => Ok(count as usize),
        Err(error) if error.0 == sys::CUresult::CUDA_ERROR_NO_DEVICE => Err(Error::Device(
            format!("the NVIDIA driver shows no device{}: use --device cpu", visible()),
        )),
        Err(error) => Err(failed("start the NVIDIA driver")(error)),
    }
}

/// For messages: what hides devices from the driver.
fn visible() -> String {
    let visible = env::var("CUDA_VISIBLE_DEVICES");
    visible.map_or(String::new(), |v| format!(" (CUDA_VISIBLE_DEVICES is {v:?})"))
}

fn driver_version() -> Result<i32> {
    let mut version = 0;
    // SAFETY: the driver writes one integer.
    let answer = unsafe { sys::cuDriverGetVersion(&mut version) }.result();
    answer.map_err(failed("ask for the driver's version"))?;
    Ok(version)
}

/// 13.0 for 13000.
fn version(number: i32) -> String {
    format!("{}.{}", number / 1000, number % 1000 / 10)
}

/// The release of the kernel module, such as 580.65.06, where the system tells.
fn driver_release() -> Option<String> {
    let text = std::fs::read_to_string("/proc/driver/nvidia/version").ok()?;
    let word = text
        .split_whitespace()
        .find(|word| word.contains('.') && word.chars().all(|c| c.is_ascii_digit() || c == '.'));
    word.map(str::to_owned)
}

/// For `map_err`: what the driver was asked to do, and what it said.
fn failed(action: &str) -> impl Fn(DriverError) -> Error {
    let action = action.to_owned();
    move |error| {
        let text = |s: Result<&std::ffi::CStr, DriverError>| {
            s.map_or_else(|_| "an unknown error".into(), |s| s.to_string_lossy().into_owned())
        };
        let (name, meaning) = (text(error.error_name()), text(error.error_string()));
        Error::Device(format!("CUDA could not {action}: {meaning} ({name})"))
    }
}

/// A plan on a GPU.
pub struct Cuda {
    plan: Arc<Plan>,
    arena: CudaSlice<f32>,
    kernels: HashMap<&'static str, CudaFunction>,
    /// What was recorded of each row of stages; empty until it is first run.
    graphs: HashMap<RangeInclusive<Stage>, Option<CudaGraph>>,
    /// Whether [`Stage::Prepare`] has seen the parameters that are there.
    prepared: bool,
    stream: Arc<CudaStream>,
    uploads: Uploads,
}

/// Copies from the host beside the work on the device.
struct Uploads {
    stream: Arc<CudaStream>,
    /// Pinned memory that the halves are copied from, and when each was last copied.
    staging: [Option<PinnedHostSlice<f32>>; 2],
    copied: [Option<CudaEvent>; 2],
    /// All work that was there at the last upload: that which read the half to be filled next.
    behind: Option<CudaEvent>,
}

impl Drop for Uploads {
    /// Pinned memory must not go while something is copied from it.
    fn drop(&mut self) {
        let _ = self.stream.synchronize();
    }
}

impl Cuda {
    /// Allocates the arena on `device` and loads the kernels. The arena starts as NaN, so that a
    /// read before a write shows, or one past the end of a buffer; the padding inside of regions
    /// starts as 0, so that they can be summed.
    ///
    /// # Errors
    /// [`Error::Device`]: too little memory, or what the driver refuses.
    pub fn new(device: &Device, plan: Plan) -> Result<Cuda> {
        let stream = device.context.new_stream().map_err(failed("make a stream"))?;
        Cuda::in_stream(device, plan, stream)
    }

    /// Another arena for the same plan, whose work waits for that of this one and the other way
    /// round. One thread alone may use the two.
    pub fn another(&self, device: &Device) -> Result<Cuda> {
        Cuda::in_stream(device, Plan::clone(&self.plan), self.stream.clone())
    }

    fn in_stream(device: &Device, plan: Plan, stream: Arc<CudaStream>) -> Result<Cuda> {
        let context = &device.context;
        check_memory(device, &plan)?;
        let module = context
            .load_module(Ptx::from_binary(KERNELS.to_vec()))
            .map_err(failed("load the kernels"))?;
        let mut shared: BTreeMap<&'static str, u32> = BTreeMap::new();
        for launch in plan.steps.iter().flat_map(|step| step.op.launches()) {
            let most = shared.entry(launch.kernel).or_default();
            *most = launch.shared.max(*most);
        }
        let mut kernels = HashMap::new();
        for (name, bytes) in shared {
            let function = module.load_function(name);
            let function = function.map_err(failed(&format!("find the kernel {name}")))?;
            allow_shared(name, &function, bytes)?;
            kernels.insert(name, function);
        }
        let mut arena = allocate(&stream, &plan)?;
        for (range, content) in plan.tables() {
            let copied = stream.memcpy_htod(content, &mut arena.slice_mut(range));
            copied.map_err(failed("write a table to the device"))?;
        }
        let plan = Arc::new(plan);
        let uploads = Uploads {
            stream: context.new_stream().map_err(failed("make a stream"))?,
            staging: [None, None],
            copied: [None, None],
            // The first upload waits until the arena is there and filled.
            behind: Some(stream.record_event(None).map_err(failed("allocate device memory"))?),
        };
        let (graphs, prepared) = (HashMap::new(), false);
        Ok(Cuda { plan, arena, kernels, graphs, prepared, stream, uploads })
    }

    /// Device address of `v`.
    fn address(&self, v: Value) -> u64 {
        let (base, _sync) = self.arena.device_ptr(&self.stream);
        base + (self.plan.range(v).start * ELEMENT) as u64
    }

    /// Records the launches of `stages`; `None` if there are none.
    fn capture(&self, stages: &RangeInclusive<Stage>) -> Result<Option<CudaGraph>> {
        let launches: Vec<Launch> =
            self.plan.stages(stages).flat_map(|step| step.op.launches()).collect();
        if launches.is_empty() {
            return Ok(None);
        }
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        self.stream.begin_capture(mode).map_err(failed("start recording a graph"))?;
        let enqueued = launches.iter().try_for_each(|launch| self.enqueue(launch));
        // Recording ends in any case: a stream that is left recording is lost.
        let graph = self.stream.end_capture(sys::CUgraphInstantiate_flags(0));
        enqueued?;
        let graph = graph.map_err(failed("record a graph"))?;
        if let Some(graph) = &graph {
            graph.upload().map_err(failed("upload a graph"))?;
        }
        Ok(graph)
    }

    /// Runs the launches of `stages`, which are recorded the first time.
    fn replay(&mut self, stages: RangeInclusive<Stage>) -> Result<()> {
        if !self.graphs.contains_key(&stages) {
            let graph = self.capture(&stages)?;
            self.graphs.insert(stages.clone(), graph);
        }
        match &self.graphs[&stages] {
            Some(graph) => graph.launch().map_err(failed("run a graph")),
            None => Ok(()),
        }
    }

    fn enqueue(&self, launch: &Launch) -> Result<()> {
        let words: Vec<Word> = launch.args.iter().map(|arg| self.word(arg)).collect();
        let mut builder = self.stream.launch_builder(&self.kernels[launch.kernel]);
        for word in &words {
            match word {
                Word::Address(address) => builder.arg(address),
                Word::Int(int) => builder.arg(int),
                Word::Float(float) => builder.arg(float),
            };
        }
        let [x, y, z] = launch.grid;
        let shape = LaunchConfig {
            grid_dim: (x, y, z),
            block_dim: (launch.block, 1, 1),
            shared_mem_bytes: launch.shared,
        };
        // SAFETY: addresses lie inside of the arena, which outlives the graph; the number and
        // kinds of the arguments are held against the kernel's declaration in tests/launches.rs.
        unsafe { builder.launch(shape) }
            .map(drop)
            .map_err(failed(&format!("launch {} on {:?} blocks", launch.kernel, launch.grid)))
    }

    fn word(&self, arg: &Arg) -> Word {
        match *arg {
            Arg::Buffer(v) => Word::Address(self.address(v)),
            Arg::Int(int) => Word::Int(int),
            Arg::Float(float) => Word::Float(float),
        }
    }
}

/// A kernel argument as the driver reads it.
enum Word {
    Address(u64),
    Int(i32),
    Float(f32),
}

/// Lets the kernel use this much dynamic shared memory.
fn allow_shared(kernel: &str, function: &CudaFunction, bytes: u32) -> Result<()> {
    if bytes <= SHARED_UNASKED {
        return Ok(());
    }
    let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
    function
        .set_attribute(attribute, bytes as i32)
        .map_err(failed(&format!("give {kernel} {bytes} bytes of shared memory")))
}

/// An error if `plan` does not fit into what is free.
fn check_memory(device: &Device, plan: &Plan) -> Result<()> {
    let (wanted, free) = (plan.bytes(), device.free_memory()?);
    if wanted <= free {
        return Ok(());
    }
    Err(Error::Device(format!(
        "the plan needs {:.0} MB of device memory, but {:.0} of {:.0} MB can be had: use a smaller \
         --batch-size or --device cpu",
        wanted as f64 * 1e-6,
        free as f64 * 1e-6,
        device.memory as f64 * 1e-6
    )))
}

/// The arena, poisoned as [`Cuda::new`] says.
fn allocate(stream: &Arc<CudaStream>, plan: &Plan) -> Result<CudaSlice<f32>> {
    let megabytes = plan.bytes() as f64 * 1e-6;
    // SAFETY: all of it is filled below.
    let arena = unsafe { stream.alloc::<f32>(plan.arena) };
    let arena = arena.map_err(failed(&format!("allocate {megabytes:.0} MB of device memory")))?;
    let (base, _sync) = arena.device_ptr(stream);
    let zeros = plan.padding().into_iter().filter(|padding| padding.flat);
    let zeros = zeros.map(|padding| (padding.range, 0));
    // 0xFF in all bytes is a NaN.
    for (range, byte) in iter::once((0..plan.arena, 0xFF)).chain(zeros) {
        let (start, bytes) = (base + (range.start * ELEMENT) as u64, range.len() * ELEMENT);
        // SAFETY: the plan's padding lies inside of the arena.
        unsafe { result::memset_d8_async(start, byte, bytes, stream.cu_stream()) }
            .map_err(failed("fill device memory"))?;
    }
    drop(_sync);
    Ok(arena)
}

impl Backend for Cuda {
    fn plan(&self) -> &Plan {
        &self.plan
    }

    fn write(&mut self, v: Value, host: &[f32]) -> Result<()> {
        let range = self.plan.range(v);
        let Slot { name, role, .. } = &self.plan.slots[v.0];
        assert_eq!(range.len(), host.len(), "{name} has its own length");
        if host.is_empty() {
            return Ok(());
        }
        self.prepared &= *role != Role::Param;
        let mut to = self.arena.slice_mut(range);
        let copied = self.stream.memcpy_htod(host, &mut to);
        copied.map_err(failed(&format!("write {name} to the device")))
    }

    fn read(&mut self, v: Value) -> Result<Vec<f32>> {
        let range = self.plan.range(v);
        if range.is_empty() {
            return Ok(Vec::new());
        }
        let name = &self.plan.slots[v.0].name;
        let read = self.stream.clone_dtoh(&self.arena.slice(range));
        let host = read.map_err(failed(&format!("read {name} from the device")))?;
        self.wait()?;
        Ok(host)
    }

    fn peek(&mut self, range: Range<usize>) -> Result<Vec<f32>> {
        let read = self.stream.clone_dtoh(&self.arena.slice(range));
        let host = read.map_err(failed("read the device's memory"))?;
        self.wait()?;
        Ok(host)
    }

    fn upload(&mut self, half: usize, parts: &[(Value, &[f32])]) -> Result<()> {
        let said = failed("stream patterns to the device");
        let Uploads { stream, staging, copied, behind } = &mut self.uploads;
        if let Some(before) = &copied[half] {
            before.synchronize().map_err(&said)?;
        }
        let total = parts.iter().map(|(_, host)| host.len()).sum();
        if staging[half].as_ref().is_none_or(|s| s.len() < total) {
            // SAFETY: every element is written before it is copied from.
            let pinned = unsafe { self.stream.context().alloc_pinned(total) };
            staging[half] = Some(pinned.map_err(&said)?);
        }
        let pinned = staging[half].as_mut().expect("allocated above");
        let pinned = pinned.as_mut_slice().map_err(&said)?;
        if let Some(behind) = &*behind {
            stream.wait(behind).map_err(&said)?;
        }
        let mut rest = pinned;
        for &(v, host) in parts {
            let (from, more) = rest.split_at_mut(host.len());
            rest = more;
            from.copy_from_slice(host);
            let range = self.plan.range(v);
            let first = range.start + half * (range.len() / 2);
            assert!(host.len() <= range.len() / 2, "half of {}", self.plan.slots[v.0].name);
            let (base, _sync) = self.arena.device_ptr(stream);
            // SAFETY: the target lies inside of the arena, by the assertion; the source is pinned,
            // is not written again before `copied` has happened, and outlives the stream's work.
            unsafe {
                let to = base + (first * ELEMENT) as u64;
                result::memcpy_htod_async(to, from, stream.cu_stream())
            }
            .map_err(&said)?;
        }
        let done = stream.record_event(None).map_err(&said)?;
        *behind = Some(self.stream.record_event(None).map_err(&said)?);
        self.stream.wait(&done).map_err(&said)?;
        copied[half] = Some(done);
        Ok(())
    }

    fn run_stages(&mut self, stages: RangeInclusive<Stage>) -> Result<()> {
        if !self.prepared {
            self.replay(Stage::Prepare..=Stage::Prepare)?;
            self.prepared = true;
        }
        self.replay(stages)
    }

    fn wait(&mut self) -> Result<()> {
        self.stream.synchronize().map_err(failed("finish the work on the device"))
    }

    fn patience(&self) -> usize {
        PATIENCE
    }
}
