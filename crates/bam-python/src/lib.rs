//! `bam_attention._native`: `bam-kernel` and `bam-prior` for Python.
//!
//! Tensors come and go by DLPack, so none is copied and no tensor library is known here. All checks of shapes are the
//! kernel's; those of types and devices are here, before anything is read.

mod attention;
mod distribution;
mod dlpack;
mod error;
mod learned;
mod threads;

use pyo3::prelude::*;

#[pymodule(name = "_native")]
fn native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add("PADDING", bam_kernel::Documents::PADDING)?;
    module.add_class::<attention::Rules>()?;
    module.add_class::<distribution::Distribution>()?;
    module.add_function(wrap_pyfunction!(attention::forward, module)?)?;
    module.add_function(wrap_pyfunction!(attention::backward, module)?)?;
    module.add_function(wrap_pyfunction!(attention::visible_counts, module)?)?;
    module.add_function(wrap_pyfunction!(learned::families, module)?)?;
    module.add_function(wrap_pyfunction!(learned::parameters, module)?)?;
    module.add_function(wrap_pyfunction!(learned::ln_weights, module)?)?;
    module.add_function(wrap_pyfunction!(learned::ln_weights_gradient, module)?)
}
