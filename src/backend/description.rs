//! What computes, for records and for people.

use std::fmt;

use serde::Serialize;

use crate::ops::conv2d::kernels_f32;

/// A device, as `run.json` has it and as it is printed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Description {
    Cpu {
        /// As the processor calls itself, where the system tells.
        name: Option<String>,
        threads: usize,
        /// What the convolution uses of it: `AVX-512`, `AVX2` or `portable`.
        vector_unit: &'static str,
    },
    Cuda {
        index: usize,
        name: String,
        /// Such as `9.0`.
        compute_capability: String,
        memory_bytes: usize,
        /// Release of the kernel module, such as `580.65.06`, where the system tells.
        driver_release: Option<String>,
        /// The latest CUDA that the driver supports, such as `13.0`.
        driver_cuda: String,
        /// The CUDA that compiled the kernels.
        kernels_cuda: String,
    },
}

impl Description {
    pub fn cpu() -> Description {
        Description::Cpu {
            name: processor(),
            threads: rayon::current_num_threads(),
            vector_unit: kernels_f32()[0].0,
        }
    }
}

/// The model of the processor, where the system tells.
fn processor() -> Option<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    line.split_once(':').map(|(_, name)| name.trim().to_owned())
}

impl fmt::Display for Description {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Description::Cpu { threads, .. } => write!(f, "CPU, {threads} threads"),
            Description::Cuda {
                index,
                name,
                compute_capability,
                memory_bytes,
                driver_release,
                driver_cuda,
                kernels_cuda,
            } => {
                let gigabytes = *memory_bytes as f64 * 1e-9;
                let release = driver_release.as_ref().map(|release| format!(" ({release})"));
                let release = release.unwrap_or_default();
                write!(
                    f,
                    "cuda:{index}, {name}, compute capability {compute_capability}, \
                     {gigabytes:.1} GB, driver for CUDA {driver_cuda}{release}, kernels of CUDA \
                     {kernels_cuda}"
                )
            }
        }
    }
}
