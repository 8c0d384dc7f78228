//! Compiles every kernel for CUDA into a folder, and prints a line of JSON about each: `cargo xtask cuda-check` runs it.
//!
//! Arguments: the folder, a part of the kernels' names, and compute capabilities, `90` for 9.0. CUDA C++
//! is `NAME.cu`, LLVM's PTX `NAME.90.ptx`.

use bam_attention::cuda_sources;
use serde_json::json;
use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut words = std::env::args().skip(1);
    let folder = PathBuf::from(words.next().ok_or("expected a folder")?);
    let only = words.next().ok_or("expected a part of a name")?;
    let capabilities: Vec<u32> = words.map(|word| word.parse()).collect::<Result<_, _>>()?;
    for kernel in cuda_sources::all() {
        let name = kernel.name();
        if !name.contains(&only) {
            continue;
        }
        let refused = |error| format!("{name}: {error:?}");
        let cuda = kernel.cuda().map_err(refused)?;
        std::fs::write(folder.join(format!("{name}.cu")), cuda.text)?;
        let mut shared_bytes = cuda.shared_bytes;
        for capability in &capabilities {
            let ptx = kernel.ptx(*capability).map_err(refused)?;
            std::fs::write(folder.join(format!("{name}.{capability}.ptx")), ptx.text)?;
            shared_bytes = shared_bytes.max(ptx.shared_bytes);
        }
        println!(
            "{}",
            json!({"kernel": name, "units": kernel.units(), "shared_bytes": shared_bytes})
        );
    }
    Ok(())
}
