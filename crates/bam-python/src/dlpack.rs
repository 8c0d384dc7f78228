//! Tensors of Python without a copy, to read and to write results into, by [DLPack](https://dmlc.github.io/dlpack/latest/): a capsule named
//! `dltensor` holds a pointer, shape and strides, and the function that lets go of it.

use crate::error::value_error;
use bam_kernel::{Rows, RowsMut, Values, bf16};
use pyo3::exceptions::PyTypeError;
use pyo3::ffi::c_str;
use pyo3::prelude::*;
use pyo3::types::{PyCapsule, PyCapsuleMethods};
use std::ffi::{CStr, c_void};
use std::ptr::NonNull;

const NAME: &CStr = c_str!("dltensor");
/// A capsule whose tensor was taken out has another name, so that nobody lets go of it twice.
const TAKEN: &CStr = c_str!("used_dltensor");
const CPU: i32 = 1;

#[repr(C)]
#[derive(Clone, Copy, PartialEq)]
struct DataType {
    code: u8,
    bits: u8,
    lanes: u16,
}

impl DataType {
    const I32: Self = Self::of(0, 32);
    const F32: Self = Self::of(2, 32);
    const BF16: Self = Self::of(4, 16);

    const fn of(code: u8, bits: u8) -> Self {
        Self {
            code,
            bits,
            lanes: 1,
        }
    }

    fn name(self) -> String {
        let kind = match self.code {
            0 => "int",
            1 => "uint",
            2 => "float",
            4 => "bfloat",
            5 => "complex",
            6 => "bool",
            code => return format!("type {code} of {} bits", self.bits),
        };
        format!("{kind}{}", self.bits)
    }
}

#[repr(C)]
struct DlTensor {
    data: *mut c_void,
    device_type: i32,
    device_id: i32,
    ndim: i32,
    dtype: DataType,
    shape: *mut i64,
    strides: *mut i64,
    byte_offset: u64,
}

#[repr(C)]
struct Managed {
    tensor: DlTensor,
    context: *mut c_void,
    deleter: Option<unsafe extern "C" fn(*mut Managed)>,
}

/// A tensor that another library lends until this is dropped.
pub struct Tensor {
    what: &'static str,
    managed: NonNull<Managed>,
}

// SAFETY: the memory is the lender's, and what is written to is this call's alone; a lender's deleter may be called on any thread.
unsafe impl Send for Tensor {}
unsafe impl Sync for Tensor {}

impl Drop for Tensor {
    fn drop(&mut self) {
        // SAFETY: it was taken out of its capsule, so it is let go of here and nowhere else.
        unsafe {
            if let Some(deleter) = self.managed.as_ref().deleter {
                deleter(self.managed.as_ptr());
            }
        }
    }
}

impl Tensor {
    /// Takes the tensor out of a capsule; `what` names it in errors.
    ///
    /// # Errors
    /// If it is no capsule with a tensor in memory of the processor.
    pub fn take(what: &'static str, capsule: &Bound<'_, PyCapsule>) -> PyResult<Self> {
        let wrong = |got: String| {
            PyTypeError::new_err(format!("{what}: expected a tensor on the CPU, got {got}"))
        };
        let pointer = capsule
            .pointer_checked(Some(NAME))
            .map_err(|_| wrong("no new DLPack capsule".into()))?;
        // SAFETY: a capsule of this name holds such a struct, and renamed it is ours.
        let tensor = unsafe {
            if pyo3::ffi::PyCapsule_SetName(capsule.as_ptr(), TAKEN.as_ptr()) != 0 {
                return Err(PyErr::fetch(capsule.py()));
            }
            Self {
                what,
                managed: pointer.cast(),
            }
        };
        match tensor.inner().device_type {
            CPU => Ok(tensor),
            other => Err(wrong(format!("one on a device of DLPack's type {other}"))),
        }
    }

    fn inner(&self) -> &DlTensor {
        // SAFETY: it lives as long as `self`.
        unsafe { &self.managed.as_ref().tensor }
    }

    /// Its sizes.
    pub fn shape<const D: usize>(&self) -> PyResult<[usize; D]> {
        let of = self.axes(self.inner().shape);
        let sizes: Vec<usize> = of.iter().map(|size| *size as usize).collect();
        let got = format!("{sizes:?}");
        sizes
            .try_into()
            .map_err(|_| value_error(format!("{}: expected {D} axes, got {got}", self.what)))
    }

    fn axes(&self, of: *const i64) -> &[i64] {
        match of.is_null() {
            true => &[],
            // SAFETY: shape and strides have a number an axis.
            false => unsafe { std::slice::from_raw_parts(of, self.inner().ndim as usize) },
        }
    }

    /// Numbers from one row to the next by axis, the last left out: it has to be 1.
    fn strides<const D: usize>(&self, shape: [usize; D]) -> PyResult<[usize; D]> {
        // Strides of a tensor without numbers say nothing.
        let given = match shape.contains(&0) {
            true => &[],
            false => self.axes(self.inner().strides),
        };
        let mut strides = [1; D];
        for axis in (0..D).rev() {
            let contiguous = match axis + 1 < D {
                true => strides[axis + 1] * shape[axis + 1],
                false => 1,
            };
            strides[axis] = match given.get(axis) {
                _ if shape[axis] <= 1 => contiguous,
                None => contiguous,
                Some(stride) => usize::try_from(*stride).map_err(|_| {
                    value_error(format!(
                        "{}: expected strides of at least 0, got {stride}",
                        self.what
                    ))
                })?,
            };
        }
        match strides[D - 1] {
            1 => Ok(strides),
            got => Err(value_error(format!(
                "{}: expected numbers of a row side by side, got a stride of {got}",
                self.what
            ))),
        }
    }

    fn type_error(&self, expected: &str) -> PyErr {
        let got = self.inner().dtype.name();
        PyTypeError::new_err(format!("{}: expected {expected}, got {got}", self.what))
    }

    /// The place of the first number, from which on there are so many.
    fn first<T>(&self, count: usize) -> PyResult<NonNull<T>> {
        if count == 0 {
            return Ok(NonNull::dangling());
        }
        let of = self.inner();
        let first = of.data.cast::<u8>().wrapping_add(of.byte_offset as usize);
        let first = first.cast::<T>();
        let place = NonNull::new(first).filter(|_| first.is_aligned());
        place.ok_or_else(|| {
            value_error(format!(
                "{}: expected numbers at multiples of their size in memory, got {first:?}",
                self.what
            ))
        })
    }

    /// The first so many numbers.
    fn numbers<T>(&self, count: usize) -> PyResult<&[T]> {
        let first = self.first(count)?;
        // SAFETY: the caller checked the type, and where it begins was checked above; the lender's shape and strides say
        // that they are there, and nobody writes to them while the call that borrowed them runs.
        Ok(unsafe { std::slice::from_raw_parts(first.as_ptr(), count) })
    }

    /// The same of `float32`, to be written.
    fn numbers_mut(&mut self, count: usize) -> PyResult<&mut [f32]> {
        if self.inner().dtype != DataType::F32 {
            return Err(self.type_error("float32"));
        }
        let first = self.first(count)?;
        // SAFETY: as above; the caller made the tensor for results, and reads it after the call.
        Ok(unsafe { std::slice::from_raw_parts_mut(first.as_ptr(), count) })
    }

    /// `[batch, heads, rows, dim]` of `float32` or `bfloat16`, at any strides.
    pub fn rows(&self) -> PyResult<Rows<'_>> {
        let shape = self.shape::<4>()?;
        let [b, h, i, _] = self.strides(shape)?;
        let strides = [b, h, i];
        let reach = Rows::reach(shape, strides).unwrap_or(0);
        let values = match self.inner().dtype {
            DataType::F32 => Values::F32(self.numbers(reach)?),
            DataType::BF16 => Values::Bf16(self.numbers::<bf16>(reach)?),
            _ => return Err(self.type_error("float32 or bfloat16")),
        };
        // Without a reach nothing was read, and the kernel says why.
        Rows::strided(values, shape, strides).map_err(value_error)
    }

    /// `[batch, heads, rows, dim]` of `float32` to be written, at any strides.
    pub fn rows_mut(&mut self) -> PyResult<RowsMut<'_>> {
        let shape = self.shape::<4>()?;
        let [b, h, i, _] = self.strides(shape)?;
        let reach = Rows::reach(shape, [b, h, i]).unwrap_or(0);
        RowsMut::strided(self.numbers_mut(reach)?, shape, [b, h, i]).map_err(value_error)
    }

    /// All numbers of a contiguous `float32` tensor, to be written.
    pub fn floats_mut<const D: usize>(&mut self) -> PyResult<&mut [f32]> {
        let shape = self.contiguous_shape::<D>()?;
        self.numbers_mut(shape.iter().product())
    }

    /// All numbers of a contiguous `float32` tensor.
    pub fn floats<const D: usize>(&self) -> PyResult<(&[f32], [usize; D])> {
        match self.inner().dtype {
            DataType::F32 => self.contiguous(),
            _ => Err(self.type_error("float32")),
        }
    }

    /// All numbers of a contiguous `int32` tensor.
    pub fn integers<const D: usize>(&self) -> PyResult<(&[i32], [usize; D])> {
        match self.inner().dtype {
            DataType::I32 => self.contiguous(),
            _ => Err(self.type_error("int32")),
        }
    }

    fn contiguous<T, const D: usize>(&self) -> PyResult<(&[T], [usize; D])> {
        let shape = self.contiguous_shape()?;
        Ok((self.numbers(shape.iter().product())?, shape))
    }

    /// Its sizes, if its numbers lie one after the other.
    fn contiguous_shape<const D: usize>(&self) -> PyResult<[usize; D]> {
        let shape = self.shape::<D>()?;
        let strides = self.strides(shape)?;
        let mut expected = 1;
        for axis in (0..D).rev() {
            if shape[axis] > 1 && expected > 0 && strides[axis] != expected {
                return Err(value_error(format!(
                    "{}: expected a contiguous tensor",
                    self.what
                )));
            }
            expected *= shape[axis];
        }
        Ok(shape)
    }
}
