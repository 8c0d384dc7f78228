//! Other people's programs that PyPI has: fetched once into `target/`, of fixed versions.

use crate::clients::succeed;
use std::path::{Path, PathBuf};
use std::process::Command;

/// CUDA's compiler and assembler, with their headers, and the library of functions that LLVM's programs
/// take `exp` and `ln` from; they need no GPU.
const CUDA: &[&str] = &[
    "nvidia-cuda-nvrtc==13.5.37",
    "nvidia-cuda-runtime==13.5.37",
    "nvidia-cuda-crt==13.5.37",
    "nvidia-cuda-cccl==13.3.5.0.6",
    "nvidia-cuda-nvcc==13.5.37",
    "nvidia-nvvm==13.5.37",
];

/// The version of [`CUDA`].
pub const CUDA_VERSION: &str = "13.5.37";

/// The LLVM that CubeCL's build wants, with the targets that GPUs are.
const LLVM: &[&str] = &[
    "mlc-llvm-static==23.1.1.post0",
    "mlc-llvm-static-extra-targets==23.1.1.post0",
];

/// Packages that are unpacked, not imported, and so want no others.
const ALONE: &str = "--no-deps";

/// The tests of our wheel import these.
const FOR_TESTS: &[&str] = &[
    "hypothesis==6.160.0",
    "matplotlib==3.11.1",
    "mypy==2.4.1",
    "numpy==2.4.6",
    "pytest==9.2.0",
    "torch==2.15.0",
    "transformers==5.24.0",
];

/// The folder of CUDA's tools, with `bin`, `lib`, `include` and `nvvm`.
///
/// # Errors
/// If they are not there and can't be fetched.
pub fn cuda(root: &Path, python: &str) -> Result<PathBuf, String> {
    let folder = fetched(root, python, "cuda-tools", CUDA, ALONE)?;
    Ok(folder.join("nvidia/cu13"))
}

/// The folder to build with as `XDG_DATA_HOME`: CubeCL's build looks for LLVM there before it would
/// download one.
///
/// # Errors
/// If it is not there and can't be fetched or laid out.
pub fn llvm(root: &Path, python: &str) -> Result<PathBuf, String> {
    let folder = fetched(root, python, "llvm", LLVM, ALONE)?;
    let home = folder.join("home");
    let installed = home.join("tracel/tracel-llvm-23.1.0-4");
    if installed.exists() {
        return Ok(home);
    }
    let shell = "chmod +x mlc_llvm_static/static/bin/* && mkdir -p home/tracel \
                 && touch mlc_llvm_static/static/.tracel-llvm-installed \
                 && ln -s ../../mlc_llvm_static/static home/tracel/tracel-llvm-23.1.0-4";
    let mut sh = Command::new("sh");
    succeed(sh.args(["-ec", shell]).current_dir(&folder))?;
    Ok(home)
}

/// The folder with everything that the tests of our own wheel import; its name tells others that it is not ours.
///
/// # Errors
/// If it is not there and can't be fetched.
pub fn for_tests(root: &Path, python: &str) -> Result<PathBuf, String> {
    // Few of the many files are ever imported.
    let how = "--no-compile";
    fetched(root, python, "python-tests/site-packages", FOR_TESTS, how)
}

/// The folder under `target/` with those packages unpacked.
fn fetched(
    root: &Path,
    python: &str,
    name: &str,
    packages: &[&str],
    how: &str,
) -> Result<PathBuf, String> {
    let folder = root.join("target").join(name);
    let marker = folder.join("fetched");
    let wanted = packages.join("\n");
    if std::fs::read_to_string(&marker).is_ok_and(|there| there == wanted) {
        return Ok(folder);
    }
    println!("fetching into target/{name}: {}", packages.join(", "));
    let failed = |error| format!("target/{name}: {error}");
    if folder.exists() {
        std::fs::remove_dir_all(&folder).map_err(failed)?;
    }
    std::fs::create_dir_all(&folder).map_err(failed)?;
    let mut pip = Command::new(python);
    pip.args(["-m", "pip", "install", "--quiet", how])
        .args(["--disable-pip-version-check", "--target"])
        .arg(&folder)
        .args(packages);
    succeed(&mut pip)?;
    std::fs::write(&marker, wanted).map_err(failed)?;
    Ok(folder)
}
