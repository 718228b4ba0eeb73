//! Every op of the engine, one file each. This module is the table of contents: a new op is one
//! file here, one kernel of the same name, and one word in the list below.

use crate::backend::cpu::{Mem, Real};
use crate::graph::{Graph, Value};
use crate::launch::Launch;

pub mod absolute_error;
pub mod accumulate;
pub mod activate;
pub mod adam;
pub mod amplitude;
pub mod background;
pub mod batch_norm;
mod bilinear;
pub mod cartesian;
pub mod channel_gate;
pub mod channel_pool;
pub mod clip;
pub mod complex_variation;
pub mod conv2d;
pub mod cut;
pub mod dft_axis;
pub mod dft_plane;
pub mod diffraction;
pub mod extract;
pub mod fft2;
pub mod gather;
pub mod gaussian;
pub mod global_norm;
pub mod head_sum;
pub mod illuminate;
pub mod instance_norm;
pub mod intensity;
pub mod limit_modulus;
pub mod mae;
pub mod max_pool;
pub mod mean_deviation;
pub mod merge;
pub mod misfit;
pub mod mode_mix;
pub mod modulate;
pub mod multiply_add;
pub mod poisson;
pub mod polar;
pub(crate) mod product;
pub mod record;
mod reduce;
pub mod reflect_pad;
pub mod reshape;
pub mod residual;
pub mod scale;
pub mod sgd;
pub mod shuffle;
pub mod spatial_gate;
pub mod spatial_pool;
pub mod split;
pub mod stitch;
pub mod total_variation;
pub mod transposed_filter;
pub mod upsample;
pub mod weighted_sum;

/// What an op can do. Implemented by each op's struct; [`Op`] collects them.
pub trait Operation: Clone + std::fmt::Debug {
    /// Buffers whose content the op needs; of a gradient that it adds to, not the gradient itself.
    fn reads(&self) -> Vec<Value>;

    /// Buffers that the op writes, workspaces included.
    fn writes(&self) -> Vec<Value>;

    /// Pushes the adjoint of the op. Backward and update ops have none.
    fn backward(&self, _graph: &mut Graph) {}

    /// Runs the op: plain loops in the order of the formula, parallel over batch and output tiles
    /// and never over a reduction, so that any thread count gives the same bits.
    fn cpu<T: Real>(&self, mem: &mut Mem<T>);

    /// The kernels that run the op on a GPU, in order; none where there is nothing to compute.
    fn launches(&self) -> Vec<Launch>;
}

/// Declares the closed enum and its dispatch, so that an op is named once.
macro_rules! ops {
    ($($module:ident: $($op:ident)+;)+) => {
        /// One op of a graph.
        #[derive(Clone, Debug)]
        pub enum Op {
            $($($op($module::$op),)+)+
        }

        $($(impl From<$module::$op> for Op {
            fn from(op: $module::$op) -> Op {
                Op::$op(op)
            }
        })+)+

        impl Op {
            pub fn name(&self) -> &'static str {
                match self { $($(Op::$op(_) => stringify!($op),)+)+ }
            }

            pub fn reads(&self) -> Vec<Value> {
                match self { $($(Op::$op(op) => op.reads(),)+)+ }
            }

            pub fn writes(&self) -> Vec<Value> {
                match self { $($(Op::$op(op) => op.writes(),)+)+ }
            }

            pub fn backward(&self, graph: &mut Graph) {
                match self { $($(Op::$op(op) => op.backward(graph),)+)+ }
            }

            pub fn cpu<T: Real>(&self, mem: &mut Mem<T>) {
                match self { $($(Op::$op(op) => op.cpu(mem),)+)+ }
            }

            pub fn launches(&self) -> Vec<Launch> {
                match self { $($(Op::$op(op) => op.launches(),)+)+ }
            }
        }
    };
}

ops! {
    absolute_error: AbsoluteError AbsoluteErrorBackward;
    accumulate: Accumulate;
    activate: Activate ActivateBackward;
    adam: Adam;
    amplitude: Amplitude;
    background: Background BackgroundBackward;
    batch_norm: BatchNorm BatchNormBackward;
    cartesian: Cartesian CartesianBackward;
    channel_gate: ChannelGate ChannelGateBackward;
    channel_pool: ChannelPool ChannelPoolBackward;
    clip: Clip;
    complex_variation: ComplexVariation ComplexVariationBackward;
    conv2d: Conv2d Conv2dBackward;
    cut: Cut CutBackward;
    dft_axis: DftAxis;
    dft_plane: DftPlane;
    diffraction: Diffraction;
    extract: Extract ExtractBackward;
    fft2: Fft2;
    gather: Gather GatherBackward;
    global_norm: GlobalNorm;
    head_sum: HeadSum HeadSumBackward;
    illuminate: Illuminate IlluminateBackward;
    instance_norm: InstanceNorm InstanceNormBackward;
    intensity: Intensity IntensityBackward;
    limit_modulus: LimitModulus;
    mae: Mae;
    max_pool: MaxPool MaxPoolBackward;
    mean_deviation: MeanDeviation MeanDeviationBackward;
    merge: Merge MergeBackward;
    mode_mix: ModeMix ModeMixBackward;
    modulate: Modulate ModulateBackward;
    multiply_add: MultiplyAdd;
    poisson: Poisson;
    polar: Polar PolarBackward;
    record: Record;
    reflect_pad: ReflectPad ReflectPadBackward;
    reshape: Reshape ReshapeBackward;
    residual: Residual ResidualBackward;
    scale: Scale ScaleBackward;
    sgd: Sgd;
    shuffle: Shuffle;
    spatial_gate: SpatialGate SpatialGateBackward;
    spatial_pool: SpatialPool SpatialPoolBackward;
    split: Split SplitBackward;
    stitch: Stitch;
    total_variation: TotalVariation TotalVariationBackward;
    transposed_filter: TransposedFilter TransposedFilterBackward;
    upsample: Upsample UpsampleBackward;
    weighted_sum: WeightedSum WeightedSumBackward;
}
