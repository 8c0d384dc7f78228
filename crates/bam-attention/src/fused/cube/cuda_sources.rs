//! Every kernel as launches make it on an H100, compiled without a device: `cargo xtask cuda-check`
//! assembles them. CubeCL has two compilers for CUDA; its runtime takes LLVM's unless `cubecl/cuda-cpp`
//! is on.
//!
//! A new kernel, or a new type parameter of one, is a line of [`all`].

use super::rules::{Factor, KeyTerm, NumbersCompilationArg, Rules, Skips};
use super::tensors::one_each;
use super::tiling::{self, FEW, LARGEST_DIM, Limits, MOST_TENSORS, Products, Tiling};
use super::units::Units;
use super::units::cmma::Cmma;
use super::units::mma::Mma;
use super::units::plain::Plain;
use super::{bounds, by_key, by_keys, by_rows, documents, forward, sums};
use burn::tensor::{bf16, f16};
use cubecl::cmma::MatrixLayout;
use cubecl::ir::features::{Features, MmaConfig};
use cubecl::ir::nvidia::SmArch;
use cubecl::ir::{
    ContiguousElements, DeviceIdentity, DeviceProperties, ElemType, FloatKind, HardwareProperties,
    MemoryDeviceProperties, MmaProperties, TargetProperties,
};
use cubecl::prelude::*;
use cubecl::profile::TimingMethod;
use cubecl::{CompilationError, Compiler, CubeKernel, define_kernel};
use cubecl_cpp::cuda::mma::manual::contiguous_elements_cuda;
use cubecl_cpp::shared::{CompilationOptions, CppCompiler, CppSupportedFeatures};
use cubecl_cpp::target::Cuda;
use cubecl_llvm::nvptx::ptx_version::PtxVersion;
use cubecl_llvm::{LlvmTarget, PlironArtifact, PlironCompiler, PlironOptions};
use std::sync::Arc;

/// An H100's: what a cube may ask for, and loops written out.
const LIMITS: Limits = Limits {
    shared_bytes: 227 * 1024,
    software: false,
};

const TYPES: [(&str, FloatKind); 3] = [
    ("f32", FloatKind::F32),
    ("bf16", FloatKind::BF16),
    ("f16", FloatKind::F16),
];

/// A kernel before it is compiled.
pub struct Kernel {
    name: String,
    units: CubeDim,
    kernel: Box<dyn CubeKernel>,
}

/// A compiled kernel.
#[derive(Clone, Debug)]
pub struct Program {
    /// CUDA C++ or PTX.
    pub text: String,
    /// Shared memory of a cube that the launch asks for, in bytes.
    pub shared_bytes: usize,
}

impl Kernel {
    /// Kernel, head width, type and rules: `forward-64-bf16-exact`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Units of a cube.
    pub fn units(&self) -> u32 {
        self.units.num_elems()
    }

    /// CUDA C++, by the options that CubeCL's runtime sets on GPUs from compute capability 8.0 up.
    /// Clusters, from 9.0 up, change nothing in kernels that form none.
    ///
    /// # Errors
    /// If CubeCL refuses the kernel.
    pub fn cuda(&self) -> Result<Program, CompilationError> {
        let options = CompilationOptions {
            supports_features: CppSupportedFeatures {
                grid_constants: true,
                fast_math: true,
                fast_tanh: true,
                dp4a: true,
                ..Default::default()
            },
            ..Default::default()
        };
        let compiled =
            CppCompiler::<Cuda>::default().compile(define_kernel(&*self.kernel)?, &options)?;
        Ok(Program {
            text: compiled.to_string(),
            shared_bytes: compiled.shared_memory_size,
        })
    }

    /// PTX by LLVM for that compute capability, 90 for 9.0, and a driver of CUDA 13.0.
    ///
    /// # Errors
    /// If CubeCL refuses the kernel.
    pub fn ptx(&self, capability: u32) -> Result<Program, CompilationError> {
        let options = PlironOptions {
            sm_arch: Some(SmArch::new(capability, true)),
            ptx_version: PtxVersion::for_driver(13_000),
            grid_constants: true,
            ..Default::default()
        };
        let mut compiler = PlironCompiler {
            target: LlvmTarget::Nvptx,
        };
        let PlironArtifact::NvptxCode(module) =
            compiler.compile(define_kernel(&*self.kernel)?, &options)?
        else {
            unreachable!("this target makes PTX");
        };
        let bytes = module.ptx.iter().map(|byte| *byte as u8);
        let bytes: Vec<u8> = bytes.take_while(|byte| *byte != 0).collect();
        Ok(Program {
            text: String::from_utf8_lossy(&bytes).into_owned(),
            shared_bytes: module.shared_memory_size,
        })
    }
}

/// A kernel for so many units: the tensors that its launch is given, by name, then numbers and what it is
/// made for.
macro_rules! kernel {
    ($name:expr, $units:expr, $kernel:ty, [$($tensor:ident)*] $(, $rest:expr)*) => {{
        const { assert!([$(stringify!($tensor)),*].len() <= MOST_TENSORS) };
        let units: CubeDim = $units;
        let settings = KernelSettings::new(*units, ExecutionMode::Unchecked, AddressType::U32);
        Kernel {
            name: $name,
            units,
            kernel: Box::new(<$kernel>::new(
                settings,
                device(),
                target(),
                $(tensor(stringify!($tensor)),)*
                $($rest),*
            )),
        }
    }};
}

/// Every kernel, for every type, head width and kind of rules that changes it.
pub fn all() -> Vec<Kernel> {
    let each = || one_each(1).1;
    let mut all = vec![
        kernel!("merge".into(), each(), forward::merge::Merge, [parts of_parts out ln_evidence], ()),
        kernel!("prior_ranges".into(), each(), bounds::prior_ranges::PriorRanges, [ln_weights ranges]),
        kernel!("copy_norms".into(), each(), bounds::copy_norms::CopyNorms, [from to]),
        kernel!("add_up".into(), each(), sums::add_up::AddUp, [parts out], (), ()),
    ];
    for (of, rules) in rules()
        .into_iter()
        .filter(|(_, rules)| rules.has_key_prior())
    {
        all.push(
            kernel!(format!("key_pairs-{of}"), each(), by_key::key_pairs::KeyPairs, [high low key_ids pairs ranges], rules),
        );
        all.push(kernel!(
            format!("references-{of}"), each(), by_key::references::References, [pairs ranges spans references],
            numbers(), rules
        ));
    }
    for (name, kind) in TYPES {
        let dtype = ElemType::Float(kind);
        let name = |kernel: &str| format!("{kernel}-{name}");
        all.push(
            kernel!(name("largest_norms"), each(), bounds::largest_norms::LargestNorms, [k norms], (), (), dtype),
        );
        all.push(
            kernel!(name("without_padding"), each(), documents::without_padding::WithoutPadding, [x ids out], dtype),
        );
        all.push(
            kernel!(name("row_deltas"), each(), sums::row_deltas::RowDeltas, [gradient out deltas], (), dtype),
        );
        for (of, rules) in rules().into_iter().filter(|(_, rules)| rules.skips()) {
            for evidence in [false, true] {
                let name = name(if evidence {
                    "row_bounds_back"
                } else {
                    "row_bounds"
                });
                all.push(kernel!(
                    format!("{name}-{of}"), each(), bounds::row_bounds::RowBounds,
                    [q temperature references ln_evidence bounds], numbers(), rules, evidence, dtype
                ));
            }
        }
        // One 16-bit type is as the other but for how it is read.
        let all_rules = rules()
            .into_iter()
            .filter(|(of, _)| kind != FloatKind::F16 || *of == "certified");
        for (of, rules) in all_rules {
            for width in [64, 128, LARGEST_DIM] {
                let name = |kernel: &str| format!("{kernel}-{width}-{}", name(of));
                all.extend(decode(&name, width, rules, dtype));
                let matrix = width <= tiling::WIDEST_MATRIX;
                let products = match kind {
                    FloatKind::BF16 | FloatKind::F16 if matrix => Products::Mma,
                    _ => Products::Plain,
                };
                all.extend(of_tiles(&name, width, rules, dtype, products));
                // CUDA's own shape stands for those of other devices.
                if kind == FloatKind::BF16 && matrix {
                    let name = |kernel: &str| format!("{}-cmma", name(kernel));
                    let products = Products::Cmma((16, 16, 16));
                    all.extend(of_tiles(&name, width, rules, dtype, products));
                }
            }
        }
    }
    all
}

/// The kernels that tiles stream through.
fn of_tiles(
    name: &dyn Fn(&str) -> String,
    width: usize,
    rules: Rules,
    dtype: ElemType,
    products: Products,
) -> Vec<Kernel> {
    let cut = |plain: Tiling, kept, lays_out| match products {
        Products::Plain => plain,
        Products::Mma => Tiling::mma(width, kept, lays_out),
        Products::Cmma(shape) => {
            Tiling::cmma(width, kept, shape, dtype.size(), LIMITS).expect("an H100 has room for it")
        }
    };
    let cuts = [
        cut(Tiling::forward(width, LIMITS), 1, false),
        cut(Tiling::by_rows(width, LIMITS), 2, true),
        cut(Tiling::by_keys(width, LIMITS), 2, false),
    ];
    let bf16 = dtype == ElemType::Float(FloatKind::BF16);
    match products {
        Products::Plain => by_units::<Plain>(name, cuts, rules, dtype),
        Products::Mma if bf16 => by_units::<Mma<bf16>>(name, cuts, rules, dtype),
        Products::Mma => by_units::<Mma<f16>>(name, cuts, rules, dtype),
        Products::Cmma(_) => by_units::<Cmma<bf16>>(name, cuts, rules, dtype),
    }
}

fn by_units<U: Units>(
    name: &dyn Fn(&str) -> String,
    [first, rows, keys]: [Tiling; 3],
    rules: Rules,
    dtype: ElemType,
) -> Vec<Kernel> {
    vec![
        forward::<U>(name("forward"), first, rules, dtype),
        kernel!(
            name("by_rows"), units(rows), by_rows::by_rows::ByRows<U>,
            [q k v gradient ln_weights temperature key_pairs references query_ids key_ids ln_evidence deltas row_bounds
             key_norms ranges key_ranges d_q d_temperature d_ln_weights log],
            numbers(), vector(dtype), rows, rules, dtype
        ),
        kernel!(
            name("by_keys"), units(keys), by_keys::by_keys::ByKeys<U>,
            [q k v gradient ln_weights temperature key_pairs references query_ids key_ids ln_evidence deltas row_bounds
             key_norms ranges key_ranges d_k d_v d_key_prior],
            numbers(), vector(dtype), keys, rules, dtype
        ),
    ]
}

fn forward<U: Units>(name: String, t: Tiling, rules: Rules, dtype: ElemType) -> Kernel {
    kernel!(
        name, units(t), forward::forward::Forward<U>,
        [q k v ln_weights temperature key_pairs references query_ids key_ids row_bounds key_norms ranges key_ranges out
         ln_evidence log],
        numbers(), vector(dtype), t, rules, dtype
    )
}

/// Of one row, and of as many as are few.
fn decode(
    name: &dyn Fn(&str) -> String,
    width: usize,
    rules: Rules,
    dtype: ElemType,
) -> Vec<Kernel> {
    let of = |queries: usize| {
        let t = Tiling::decode(queries, width, LIMITS);
        forward::<Plain>(name(&format!("decode{queries}")), t, rules, dtype)
    };
    [1, FEW].map(of).into()
}

/// Numbers in 16 bytes.
fn vector(dtype: ElemType) -> usize {
    16 / dtype.size()
}

/// Rules that between them turn on everything: the least, each kind of skipping, and all at once.
fn rules() -> [(&'static str, Rules); 4] {
    let causal = Rules {
        causal: true,
        window: false,
        documents: false,
        temperature: Factor::None,
        key_prior: KeyTerm::None,
        skipping: Skips::Off,
        counts: false,
    };
    let exact = Rules {
        temperature: Factor::Likelihood,
        key_prior: KeyTerm::Added,
        skipping: Skips::Exact,
        ..causal
    };
    let packed = Rules {
        causal: false,
        window: true,
        documents: true,
        ..causal
    };
    let certified = Rules {
        causal: true,
        temperature: Factor::LikelihoodAndPrior,
        key_prior: KeyTerm::Scaled,
        skipping: Skips::Certified,
        counts: true,
        ..packed
    };
    [
        ("causal", causal),
        ("exact", exact),
        ("packed", packed),
        ("certified", certified),
    ]
}

fn units(t: Tiling) -> CubeDim {
    CubeDim::new_1d(t.units() as u32)
}

/// A tensor of its own, of any shape.
fn tensor(_name: &str) -> TensorCompilationArg {
    TensorCompilationArg {
        meta: TensorMetaCompilationArg { len: (), rank: () },
        buffer: BufferCompilationArg { inplace: None },
    }
}

fn numbers() -> NumbersCompilationArg {
    NumbersCompilationArg {
        offset: (),
        window: (),
        first_lag: (),
        scale: (),
        ln_epsilon: (),
    }
}

/// An H100 as far as kernels can ask.
fn device() -> Arc<DeviceProperties> {
    let hardware = HardwareProperties {
        load_width: 128,
        vector_register_count: None,
        plane_size_min: 32,
        plane_size_max: 32,
        max_bindings: 1024,
        max_shared_memory_size: LIMITS.shared_bytes,
        max_cube_count: (i32::MAX as u32, 65_535, 65_535),
        max_units_per_cube: 1024,
        max_cube_dim: (1024, 1024, 64),
        num_streaming_multiprocessors: Some(132),
        num_tensor_cores: Some(4),
        min_tensor_cores_dim: Some(8),
        num_cpu_cores: None,
        last_level_cache_size: None,
        max_vector_size: VectorSize::MAX,
        cube_mma_reserved_shared_memory: 0,
    };
    let nowhere = DeviceIdentity {
        name: "offline".into(),
        fingerprint: "offline".into(),
        physical: None,
    };
    let bf16 = ElemType::Float(FloatKind::BF16);
    let mut features = Features::default();
    features.matmul.cmma.insert(MmaConfig {
        a_type: bf16,
        b_type: bf16,
        cd_type: ElemType::Float(FloatKind::F32),
        m: 16,
        n: 16,
        k: 16,
    });
    Arc::new(DeviceProperties::new(
        features,
        MemoryDeviceProperties::new(80 << 30, 512),
        hardware,
        TimingMethod::Device,
        nowhere,
    ))
}

/// The layout of matrix units' registers, as CubeCL's CUDA runtime tells it.
fn target() -> Arc<TargetProperties> {
    Arc::new(TargetProperties {
        mma: MmaProperties {
            register_size_bits: 32,
            const_plane_size: 32,
            register_layout_a: MatrixLayout::RowMajor,
            register_layout_b: MatrixLayout::ColMajor,
            register_layout_acc: MatrixLayout::RowMajor,
            register_duplication_a: 1,
            register_duplication_b: 1,
            register_duplication_acc: 1,
            contiguous_elements: ContiguousElements::new(contiguous_elements_cuda),
        },
    })
}
