//! The names of classes and functions that a pickle of weights may mention.

/// What a name means to the reader. Nothing is ever called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Makes a tensor of a storage, an offset, a shape and strides.
    Tensor,
    /// Makes a parameter of a tensor.
    Parameter,
    /// Makes a dict of a list of pairs.
    Dict,
    /// A class of storages.
    Storage,
    /// A class of objects that stand beside the weights; what is made of it is not looked into,
    /// except for plain values under a name.
    Opaque,
}

/// Numbers that a storage of class `class` holds; none where it is no storage.
pub fn storage_type(class: &str) -> Option<StorageType> {
    use StorageType::*;
    let found = match class {
        "FloatStorage" => F32,
        "DoubleStorage" => F64,
        "HalfStorage" => F16,
        "BFloat16Storage" => Bf16,
        "LongStorage"
        | "IntStorage"
        | "ShortStorage"
        | "CharStorage"
        | "ByteStorage"
        | "BoolStorage"
        | "ComplexFloatStorage"
        | "ComplexDoubleStorage" => Other,
        _ => return None,
    };
    Some(found)
}

/// The type of the numbers in a storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StorageType {
    F32,
    F64,
    F16,
    Bf16,
    /// Counters, flags, complex numbers: not the weights of a network that is known here.
    Other,
}

impl StorageType {
    /// Bytes of a number; none where they are not read.
    pub fn bytes(self) -> Option<usize> {
        match self {
            StorageType::F32 => Some(4),
            StorageType::F64 => Some(8),
            StorageType::F16 | StorageType::Bf16 => Some(2),
            StorageType::Other => None,
        }
    }

    /// The number that `bytes` are, rounded to f32.
    pub fn number(self, bytes: &[u8]) -> f32 {
        let wrong = "as many bytes as a number has";
        match self {
            StorageType::F32 => f32::from_le_bytes(bytes.try_into().expect(wrong)),
            StorageType::F64 => f64::from_le_bytes(bytes.try_into().expect(wrong)) as f32,
            StorageType::F16 => half::f16::from_le_bytes(bytes.try_into().expect(wrong)).to_f32(),
            StorageType::Bf16 => half::bf16::from_le_bytes(bytes.try_into().expect(wrong)).to_f32(),
            StorageType::Other => f32::NAN,
        }
    }
}

/// Classes and functions that are let pass, by their full names: what options and optimisers are
/// made of.
const PASSED: [&str; 39] = [
    "_codecs.encode",
    "argparse.Namespace",
    "builtins.bool",
    "builtins.bytearray",
    "builtins.complex",
    "builtins.dict",
    "builtins.float",
    "builtins.frozenset",
    "builtins.int",
    "builtins.list",
    "builtins.object",
    "builtins.range",
    "builtins.set",
    "builtins.slice",
    "builtins.str",
    "builtins.tuple",
    "collections.Counter",
    "collections.defaultdict",
    "collections.deque",
    "copyreg._reconstructor",
    "datetime.date",
    "datetime.datetime",
    "datetime.timedelta",
    "numpy._core.multiarray._reconstruct",
    "numpy._core.multiarray.scalar",
    "numpy.core.multiarray._reconstruct",
    "numpy.core.multiarray.scalar",
    "numpy.dtype",
    "numpy.ndarray",
    "pathlib.Path",
    "pathlib.PosixPath",
    "pathlib.PurePosixPath",
    "pathlib.PureWindowsPath",
    "pathlib.WindowsPath",
    "torch.Generator",
    "torch.Size",
    "torch.device",
    "torch.nn.parameter.Parameter",
    "torch.serialization._get_layout",
];

/// Packages whose classes are let pass: optimisers, schedules and callbacks, and the options of the
/// published program. Dtypes of torch are named like `torch.float32`.
const PACKAGES: [&str; 8] = [
    "lightning.",
    "lightning_fabric.",
    "lightning_utilities.",
    "pytorch_lightning.",
    "ptycho.config.",
    "ptycho_torch.",
    "torch.optim.",
    "torch.utils.data.",
];

/// Types of numbers, which tensors of an optimiser and options mention.
const DTYPES: [&str; 12] = [
    "bfloat16",
    "bool",
    "complex128",
    "complex64",
    "float16",
    "float32",
    "float64",
    "int16",
    "int32",
    "int64",
    "int8",
    "uint8",
];

/// What `name` of `module` means; none: it is refused.
pub fn kind(module: &str, name: &str) -> Option<Kind> {
    // Up to version 2 of the protocol, which torch writes, modules have the names of Python 2.
    let module = match module {
        "__builtin__" => "builtins",
        "copy_reg" => "copyreg",
        module => module,
    };
    let full = format!("{module}.{name}");
    match full.as_str() {
        "torch._utils._rebuild_tensor" | "torch._utils._rebuild_tensor_v2" => {
            return Some(Kind::Tensor);
        }
        "torch._utils._rebuild_parameter" | "torch._utils._rebuild_parameter_with_state" => {
            return Some(Kind::Parameter);
        }
        "collections.OrderedDict" => return Some(Kind::Dict),
        _ => {}
    }
    if module == "torch" {
        if storage_type(name).is_some() {
            return Some(Kind::Storage);
        }
        if DTYPES.contains(&name) {
            return Some(Kind::Opaque);
        }
    }
    // A name with a dot could reach through a package to what it has imported.
    let within = |package: &&str| full.starts_with(package) && !name.contains('.');
    let passed = PASSED.contains(&full.as_str()) || PACKAGES.iter().any(within);
    passed.then_some(Kind::Opaque)
}
