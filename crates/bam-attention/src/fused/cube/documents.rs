//! Documents and padding on the device: uploaded once, however many layers and steps use them.

use super::rules::PADDING;
use super::tensors::empty;
use bam_kernel::Documents;
use burn::tensor::{DType, Shape};
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

/// The document of every query, `[batch, queries]`, and of every key.
#[derive(Clone, Debug)]
pub(super) struct DeviceIds {
    pub queries: CubeTensor,
    pub keys: CubeTensor,
    /// Whether a token is padding.
    pub padded: bool,
    spans: Arc<OnceLock<CubeTensor>>,
}

impl DeviceIds {
    /// First key and end of every query's document, `[batch, queries, 2]`: of `documents`, whose ids these are. Uploaded where
    /// they are asked for.
    pub fn spans(&self, documents: Option<&Arc<Documents>>) -> CubeTensor {
        let upload = |documents: &Arc<Documents>| upload(&spans(documents), &self.queries);
        let of = |documents| self.spans.get_or_init(|| upload(documents)).clone();
        documents.map_or_else(|| self.queries.clone(), of)
    }
}

/// Those that are on a device already, for as long as their owner keeps them.
static UPLOADED: Mutex<Vec<(Weak<Documents>, DeviceIds)>> = Mutex::new(Vec::new());

/// The documents beside `like`; one number that nobody reads where there are none.
pub(super) fn ids(documents: Option<&Arc<Documents>>, like: &CubeTensor) -> DeviceIds {
    let Some(documents) = documents else {
        let nothing = empty(like, &[1]);
        return DeviceIds {
            queries: nothing.clone(),
            keys: nothing,
            padded: false,
            spans: Arc::default(),
        };
    };
    let mut uploaded = UPLOADED.lock().unwrap_or_else(PoisonError::into_inner);
    uploaded.retain(|(owner, _)| owner.strong_count() > 0);
    let found = uploaded.iter().find(|(owner, ids)| {
        std::ptr::eq(owner.as_ptr(), Arc::as_ptr(documents)) && ids.queries.device == like.device
    });
    if let Some((_, ids)) = found {
        return ids.clone();
    }
    let rows = 0..documents.dims().0;
    let all = |of: fn(&Documents, usize) -> &[i32]| -> Vec<i32> {
        rows.clone()
            .flat_map(|b| of(documents, b))
            .copied()
            .collect()
    };
    let (queries, keys) = (all(Documents::query_ids), all(Documents::key_ids));
    let padded = queries
        .iter()
        .chain(&keys)
        .any(|id| Documents::is_padding(*id));
    let ids = DeviceIds {
        queries: upload(&queries, like),
        keys: upload(&keys, like),
        padded,
        spans: Arc::default(),
    };
    uploaded.push((Arc::downgrade(documents), ids.clone()));
    ids
}

fn upload(numbers: &[i32], like: &CubeTensor) -> CubeTensor {
    CubeTensor::new_contiguous(
        like.client.clone(),
        like.device.clone(),
        Shape::from(vec![numbers.len()]),
        like.client.create_from_slice(i32::as_bytes(numbers)),
        DType::I32,
    )
}

/// First key and end of every query's document, row after row; nothing of padding and of documents without a key.
fn spans(documents: &Documents) -> Vec<i32> {
    let of_row = |row| {
        let mut found: HashMap<i32, [i32; 2]> = HashMap::new();
        for (key, id) in (0..).zip(documents.key_ids(row)) {
            found.entry(*id).or_insert([key, key])[1] = key + 1;
        }
        found.remove(&Documents::PADDING);
        let of_queries = documents.query_ids(row).iter();
        let span = |id| found.get(id).copied().unwrap_or_default();
        of_queries.flat_map(span).collect::<Vec<_>>()
    };
    (0..documents.dims().0).flat_map(of_row).collect()
}

/// `x`, `[batch, heads, length, dim]`, one number after the other, and zeros at padding; one unit a number.
#[cube(launch_unchecked)]
pub(super) fn without_padding<F: Float>(
    x: &Tensor<F>,
    ids: &Tensor<i32>,
    out: &mut Tensor<F>,
    #[define(F)] _dtype: ElemType,
) {
    let at = ABSOLUTE_POS;
    if at < out.len() {
        let (heads, length, dim) = (x.shape(1), x.shape(2), x.shape(3));
        let (c, row, head) = (at % dim, at / dim % length, at / dim / length % heads);
        let batch = at / dim / length / heads;
        let mut number = F::new(0.0_f32);
        if ids[batch * length + row] != i32::new(PADDING) {
            number = x[batch * x.stride(0) + head * x.stride(1) + row * x.stride(2) + c];
        }
        out[at] = number;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_from_first_to_last() {
        const P: i32 = Documents::PADDING;
        let keys = vec![P, 7, 7, -3, P, -3, 4, 4, 4, 7, P, 4];
        let queries = vec![7, -3, P, 5, 4, 7];
        let documents = Documents::with_cache(2, queries, keys).unwrap();
        let expected = [[1, 3], [3, 6], [0, 0], [0, 0], [0, 6], [3, 4]];
        assert_eq!(spans(&documents), expected.concat());
    }
}
