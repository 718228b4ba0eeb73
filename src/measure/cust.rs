//! The same kernels through `cust`, a second binding of the CUDA driver that shares no code with
//! the first: what it computes must have the same bits.
//!
//! `cust` wants to be linked with libcuda. The functions that it calls are defined here instead and
//! pass each call to the driver that is found at run time, so that a program with this feature
//! starts without a driver too, like any other. For the linker, `build/cust` has a libcuda without
//! content.

use std::ffi::{c_char, c_int, c_uint, c_void};
use std::ptr;
use std::sync::OnceLock;

use cust::CudaFlags;
use cust::context::{Context, CurrentContext};
use cust::device::Device;
use cust::error::CudaError;
use cust::function::Function;
use cust::memory::{CopyDestination, DeviceBuffer};
use cust::module::Module;
use cust::stream::{Stream, StreamFlags};
use cust::sys::{
    self, CUcontext, CUdevice, CUdeviceptr, CUfunction, CUfunction_attribute, CUjit_option,
    CUmodule, CUresult, CUstream,
};
use libloading::Library;
use serde::Serialize;

use super::cases::{Case, Planned, Size, all};
use crate::backend::Backend;
use crate::backend::cuda::{self, Cuda, KERNELS, SHARED_UNASKED};
use crate::graph::{Stage, Value};
use crate::launch::{Arg, Launch};
use crate::plan::Plan;
use crate::{Error, Result};

const STAGES: [Stage; 4] = [Stage::Prepare, Stage::Forward, Stage::Backward, Stage::Update];

/// One op through both bindings.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    pub what: String,
    pub launches: usize,
    /// Numbers that were compared: all that the plan has a place for.
    pub numbers: usize,
    /// Those of them that have other bits.
    pub different: usize,
    /// The first buffer with such a number.
    pub differs: Option<String>,
}

/// Compares every op at small sizes whose name contains `filter`; `seen` is told of each as it is
/// done.
///
/// # Errors
/// [`Error::Device`]: what one of the bindings could not do.
pub fn run(
    device: &cuda::Device,
    filter: &str,
    mut seen: impl FnMut(&Comparison),
) -> Result<Vec<Comparison>> {
    let second = Second::open(device.index)?;
    let cases = all().into_iter().filter(|case| case.name.contains(filter));
    cases
        .map(|case| {
            let comparison = compare(&case, device, &second)?;
            seen(&comparison);
            Ok(comparison)
        })
        .collect()
}

fn compare(case: &Case, device: &cuda::Device, second: &Second) -> Result<Comparison> {
    let planned = case.plan(&Size::SMALL);
    let plan = &planned.plan;
    let mut first = Cuda::new(device, plan.clone())?;
    for (v, numbers) in planned.filling() {
        first.write(v, &numbers)?;
    }
    for stage in STAGES {
        first.run(stage)?;
    }
    let (arena, launches) = second.run(&planned)?;
    let (what, differs) = (case.name.into(), None);
    let mut comparison = Comparison { what, launches, numbers: 0, different: 0, differs };
    for (i, slot) in plan.slots.iter().enumerate() {
        let (want, got) = (first.read(Value(i))?, &arena[plan.range(Value(i))]);
        let different = want.iter().zip(got).filter(|(w, g)| w.to_bits() != g.to_bits()).count();
        comparison.numbers += got.len();
        comparison.different += different;
        if different > 0 {
            comparison.differs.get_or_insert_with(|| slot.name.clone());
        }
    }
    Ok(comparison)
}

/// The arena before the first launch, as [`Cuda::new`] and writing the inputs leave it.
fn image(planned: &Planned) -> Vec<f32> {
    let plan = &planned.plan;
    let mut arena = vec![f32::from_bits(u32::MAX); plan.arena];
    for padding in plan.padding().into_iter().filter(|padding| padding.flat) {
        arena[padding.range].fill(0.0);
    }
    for (range, content) in plan.tables() {
        arena[range].copy_from_slice(content);
    }
    for (v, numbers) in planned.filling() {
        arena[plan.range(v)].copy_from_slice(&numbers);
    }
    arena
}

/// A device through `cust`. The context comes last: it must outlive the others.
struct Second {
    module: Module,
    stream: Stream,
    context: Context,
}

impl Second {
    fn open(index: usize) -> Result<Second> {
        cust::init(CudaFlags::empty()).map_err(failed("start the driver"))?;
        let index = u32::try_from(index).expect("devices are few");
        let device = Device::get_device(index).map_err(failed("find the device"))?;
        let context = Context::new(device).map_err(failed("open the device"))?;
        let module = Module::from_fatbin(KERNELS, &[]).map_err(failed("load the kernels"))?;
        let stream = Stream::new(StreamFlags::DEFAULT, None).map_err(failed("make a stream"))?;
        Ok(Second { module, stream, context })
    }

    /// The arena after all launches, and their number.
    fn run(&self, planned: &Planned) -> Result<(Vec<f32>, usize)> {
        CurrentContext::set_current(&self.context).map_err(failed("enter its context"))?;
        let mut arena = image(planned);
        let device = DeviceBuffer::from_slice(&arena).map_err(failed("fill device memory"))?;
        let base = device.as_device_ptr().as_raw();
        let plan = &planned.plan;
        let steps = STAGES.into_iter().flat_map(|stage| plan.stage(stage));
        let launches: Vec<Launch> = steps.flat_map(|step| step.op.launches()).collect();
        for launch in &launches {
            self.launch(launch, plan, base)?;
        }
        self.stream.synchronize().map_err(failed("finish the work on the device"))?;
        device.copy_to(&mut arena[..]).map_err(failed("read device memory"))?;
        Ok((arena, launches.len()))
    }

    fn launch(&self, launch: &Launch, plan: &Plan, base: CUdeviceptr) -> Result<()> {
        let name = launch.kernel;
        let function = self.module.get_function(name);
        let function = function.map_err(failed(&format!("find the kernel {name}")))?;
        allow_shared(&function, launch)?;
        let mut words: Vec<u64> = launch.args.iter().map(|arg| word(arg, plan, base)).collect();
        let args: Vec<*mut c_void> = words.iter_mut().map(|w| ptr::from_mut(w).cast()).collect();
        let [x, y, z] = launch.grid;
        // SAFETY: addresses lie inside of the arena, which is freed only after the launch is done;
        // the number and kinds of the arguments are held against the kernel's declaration in
        // tests/launches.rs; the driver copies them before it returns.
        unsafe { self.stream.launch(&function, (x, y, z), launch.block, launch.shared, &args) }
            .map_err(failed(&format!("launch {name} on {:?} blocks", launch.grid)))
    }
}

/// An argument as the driver reads it: from the first byte on, as many as the kernel's type has.
fn word(arg: &Arg, plan: &Plan, base: CUdeviceptr) -> u64 {
    let mut bytes = [0; 8];
    match *arg {
        Arg::Buffer(v) => return base + (plan.range(v).start * size_of::<f32>()) as u64,
        Arg::Int(int) => bytes[..4].copy_from_slice(&int.to_ne_bytes()),
        Arg::Float(float) => bytes[..4].copy_from_slice(&float.to_ne_bytes()),
    }
    u64::from_ne_bytes(bytes)
}

/// Lets `function` use the dynamic shared memory of `launch`, which `cust` itself cannot.
fn allow_shared(function: &Function, launch: &Launch) -> Result<()> {
    if launch.shared <= SHARED_UNASKED {
        return Ok(());
    }
    let attribute = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
    let (kernel, bytes) = (launch.kernel, launch.shared);
    // SAFETY: the function belongs to a module that is loaded.
    match unsafe { cuFuncSetAttribute(function.to_raw(), attribute, bytes as c_int) } {
        CUresult::CUDA_SUCCESS => Ok(()),
        code => Err(Error::Device(format!(
            "cust could not give {kernel} {bytes} bytes of shared memory: {code:?}"
        ))),
    }
}

/// For `map_err`: what was asked for. An error is shown by its name: its text would come from the
/// driver, and `cust` panics where there is none.
fn failed(action: &str) -> impl Fn(CudaError) -> Error {
    let action = action.to_owned();
    move |error| Error::Device(format!("cust could not {action}: {error:?}"))
}

/// The driver, looked for once.
fn driver() -> Option<&'static Library> {
    static DRIVER: OnceLock<Option<Library>> = OnceLock::new();
    let find = || {
        // SAFETY: runs what the driver does when it is loaded, as any use of it would.
        ["libcuda.so.1", "libcuda.so"].iter().find_map(|name| unsafe { Library::new(*name) }.ok())
    };
    DRIVER.get_or_init(find).as_ref()
}

/// A code of the driver in the enumeration of `cust`, which is older than today's drivers: a value
/// that it lacks must not be made.
fn known(code: c_int) -> CUresult {
    use CUresult::*;
    let codes = [
        CUDA_SUCCESS,
        CUDA_ERROR_INVALID_VALUE,
        CUDA_ERROR_OUT_OF_MEMORY,
        CUDA_ERROR_NOT_INITIALIZED,
        CUDA_ERROR_DEINITIALIZED,
        CUDA_ERROR_NO_DEVICE,
        CUDA_ERROR_INVALID_DEVICE,
        CUDA_ERROR_INVALID_IMAGE,
        CUDA_ERROR_INVALID_CONTEXT,
        CUDA_ERROR_NO_BINARY_FOR_GPU,
        CUDA_ERROR_INVALID_PTX,
        CUDA_ERROR_INVALID_HANDLE,
        CUDA_ERROR_NOT_FOUND,
        CUDA_ERROR_ILLEGAL_ADDRESS,
        CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES,
        CUDA_ERROR_MISALIGNED_ADDRESS,
        CUDA_ERROR_LAUNCH_FAILED,
        CUDA_ERROR_NOT_SUPPORTED,
    ];
    let known = codes.into_iter().find(|&known| known as c_int == code);
    known.unwrap_or_else(|| {
        log::warn!("error {code} of the CUDA driver has no name here");
        CUDA_ERROR_UNKNOWN
    })
}

/// Defines functions of the driver. That they are declared as in `cust` is checked by the compiler,
/// that none is missing by the linker.
macro_rules! pass_on {
    ($(fn $name:ident($($arg:ident: $kind:ty),*);)*) => { $(
        // SAFETY: the program is linked with no other library that has this name.
        #[unsafe(no_mangle)]
        #[allow(non_snake_case)]
        unsafe extern "C" fn $name($($arg: $kind),*) -> CUresult {
            let Some(driver) = driver() else {
                return CUresult::CUDA_ERROR_SHARED_OBJECT_INIT_FAILED;
            };
            // SAFETY: the type is that of the driver's header, with the code as a plain integer.
            type Passed = unsafe extern "C" fn($($kind),*) -> c_int;
            let function = unsafe { driver.get::<Passed>(concat!(stringify!($name), "\0")) };
            let Ok(function) = function else {
                return CUresult::CUDA_ERROR_SHARED_OBJECT_SYMBOL_NOT_FOUND;
            };
            // SAFETY: what the driver asks of its caller, the caller of this has seen to.
            known(unsafe { function($($arg),*) })
        }
        const _: unsafe extern "C" fn($($kind),*) -> CUresult = sys::$name;
    )* };
}

pass_on! {
    fn cuInit(flags: c_uint);
    fn cuDeviceGet(device: *mut CUdevice, ordinal: c_int);
    fn cuDevicePrimaryCtxRetain(context: *mut CUcontext, device: CUdevice);
    fn cuDevicePrimaryCtxRelease_v2(device: CUdevice);
    fn cuCtxSetCurrent(context: CUcontext);
    fn cuModuleLoadDataEx(
        module: *mut CUmodule,
        image: *const c_void,
        count: c_uint,
        options: *mut CUjit_option,
        values: *mut *mut c_void
    );
    fn cuModuleUnload(module: CUmodule);
    fn cuModuleGetFunction(function: *mut CUfunction, module: CUmodule, name: *const c_char);
    fn cuFuncSetAttribute(function: CUfunction, attribute: CUfunction_attribute, value: c_int);
    fn cuStreamCreateWithPriority(stream: *mut CUstream, flags: c_uint, priority: c_int);
    fn cuStreamSynchronize(stream: CUstream);
    fn cuStreamDestroy_v2(stream: CUstream);
    fn cuLaunchKernel(
        function: CUfunction,
        grid_x: c_uint,
        grid_y: c_uint,
        grid_z: c_uint,
        block_x: c_uint,
        block_y: c_uint,
        block_z: c_uint,
        shared: c_uint,
        stream: CUstream,
        args: *mut *mut c_void,
        extra: *mut *mut c_void
    );
    fn cuMemAlloc_v2(address: *mut CUdeviceptr, bytes: usize);
    fn cuMemFree_v2(address: CUdeviceptr);
    fn cuMemcpyHtoD_v2(to: CUdeviceptr, from: *const c_void, bytes: usize);
    fn cuMemcpyDtoH_v2(to: *mut c_void, from: CUdeviceptr, bytes: usize);
}
