//! Alilama: small trained ALiBi models with a block of their own, and their byte-pair vocabulary.
//!
//! ```text
//! x = LN₁(x)     a = x + heads(x)     out = a + p₂(silu(p₁·LN₂(a)))     logits = out · embeddingsᵀ
//! ```
//!
//! Attention has no output projection, the residual starts behind the first norm, and there is no
//! norm before the head. So this is no [`Transformer`](crate::model::Transformer), but its
//! attention is [`attend`] like every other.
//!
//! Shape suffixes: n tokens, h heads, d width, e head width; a batch of 1 goes without saying.

use super::{Vocabulary, not_as_expected};
use crate::Error;
use crate::model::TokenRows;
use crate::model::checkpoint::{NamedTensors, read_tensors};
use bam_attention::log_prior::laplace::Laplace;
use bam_attention::log_prior::{Family, LagGrid};
use bam_attention::{Implementation, Lags, LogPrior, Options, attend};
use burn::tensor::activation::silu;
use burn::tensor::module::{embedding, layer_norm, linear};
use burn::tensor::{Device, Tensor, TensorData};
use std::fs;
use std::path::Path;

/// Heads of every published model; no tensor tells them.
const HEADS: usize = 8;
const NORM_EPSILON: f64 = 1e-5;

/// A trained model.
#[derive(Clone, Debug)]
pub struct Alilama {
    /// `[vocabulary, d]`; the head too.
    embeddings: Tensor<2>,
    blocks: Vec<Block>,
}

/// Matrices are `[in, out]`.
#[derive(Clone, Debug)]
struct Block {
    norm1: Norm,
    q: Tensor<2>,
    k: Tensor<2>,
    v: Tensor<2>,
    norm2: Norm,
    p1: Tensor<2>,
    p2: Tensor<2>,
}

#[derive(Clone, Debug)]
struct Norm {
    weight: Tensor<1>,
    bias: Tensor<1>,
}

impl Alilama {
    /// Reads a model from the tensors of its training program, as safetensors.
    ///
    /// # Errors
    /// If the file can't be read, or a tensor is missing, not finite, of another shape or unknown.
    pub fn read(path: &Path, device: &Device) -> Result<Self, Error> {
        let mut file = Weights {
            tensors: read_tensors(path)?,
            path,
            device,
        };
        let [vocabulary, dim] = file.matrix_shape("embed.weight")?;
        if dim % HEADS != 0 {
            return Err(file.wrong(
                "embed.weight",
                format!("a width that is a multiple of {HEADS} heads"),
                dim.to_string(),
            ));
        }
        let mut blocks = vec![file.block(0, dim)?];
        while file.has(&format!("blocks.{}.norm1.weight", blocks.len())) {
            blocks.push(file.block(blocks.len(), dim)?);
        }
        let embeddings = file.take("embed.weight", [vocabulary, dim])?;
        file.finish()?;
        Ok(Self { embeddings, blocks })
    }

    /// Number of tokens.
    #[must_use]
    pub fn vocabulary(&self) -> usize {
        self.embeddings.dims()[0]
    }

    /// The prior that the model was trained under: ALiBi with the slopes 2⁻¹ … 2⁻⁸.
    ///
    /// # Errors
    /// If there are no lags.
    pub fn alibi(&self, lags: Lags) -> Result<LogPrior, Error> {
        let device = self.embeddings.device();
        let theta: Vec<f32> = Laplace.parameters(HEADS)[0]
            .initial
            .iter()
            .map(|x| *x as f32)
            .collect();
        let theta = Tensor::from_data(TensorData::new(theta, [HEADS, 1]), &device);
        let grid = LagGrid {
            heads: HEADS,
            lags,
            device,
        };
        Ok(LogPrior::new(Laplace.ln_weight(&[theta], &grid), lags)?)
    }

    /// The prior of the model without positions.
    #[must_use]
    pub fn uniform(&self, lags: Lags) -> LogPrior {
        LogPrior::uniform(HEADS, lags, &self.embeddings.device())
    }

    /// Logits of every next token of one row, under any prior.
    ///
    /// # Shapes
    /// - result: `[tokens, vocabulary]`
    ///
    /// # Errors
    /// Ids outside the vocabulary, lags that the prior lacks.
    pub fn forward(
        &self,
        tokens: &[i32],
        prior: &LogPrior,
        implementation: Implementation,
    ) -> Result<Tensor<2>, Error> {
        let tokens = TokenRows::new(1, tokens.to_vec(), self.vocabulary())?;
        let ids = tokens.tensor(&self.embeddings.device());
        let mut x_nd = embedding(self.embeddings.clone(), ids).squeeze_dim::<2>(0);
        for block in &self.blocks {
            x_nd = block.forward(x_nd, prior, implementation)?;
        }
        Ok(x_nd.matmul(self.embeddings.clone().transpose()))
    }
}

impl Norm {
    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        layer_norm(
            x,
            self.weight.clone(),
            Some(self.bias.clone()),
            NORM_EPSILON,
        )
    }
}

impl Block {
    fn forward(
        &self,
        x_nd: Tensor<2>,
        prior: &LogPrior,
        implementation: Implementation,
    ) -> Result<Tensor<2>, Error> {
        let [length, dim] = x_nd.dims();
        let x_nd = self.norm1.forward(x_nd);
        let heads = |weight: &Tensor<2>| {
            let projected_nd = linear(x_nd.clone(), weight.clone(), None);
            projected_nd
                .reshape([1, length, HEADS, dim / HEADS])
                .swap_dims(1, 2)
        };
        let out_1hne = attend(
            heads(&self.q),
            heads(&self.k),
            heads(&self.v),
            prior,
            &Options::causal(implementation),
        )?;
        let a_nd = x_nd + out_1hne.swap_dims(1, 2).reshape([length, dim]);
        let inner = silu(linear(
            self.norm2.forward(a_nd.clone()),
            self.p1.clone(),
            None,
        ));
        Ok(a_nd + linear(inner, self.p2.clone(), None))
    }
}

/// The tensors of a file that were not taken yet.
struct Weights<'a> {
    tensors: NamedTensors,
    path: &'a Path,
    device: &'a Device,
}

impl Weights<'_> {
    fn wrong(&self, tensor: &str, expected: impl Into<String>, got: impl Into<String>) -> Error {
        Error::Tensor {
            path: self.path.to_owned(),
            tensor: tensor.to_owned(),
            expected: expected.into(),
            got: got.into(),
        }
    }

    fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    fn matrix_shape(&self, name: &str) -> Result<[usize; 2], Error> {
        let got = match self.tensors.get(name).map(|(shape, _)| shape.as_slice()) {
            Some(&[rows, columns]) if rows > 0 && columns > 0 => return Ok([rows, columns]),
            Some(shape) => format!("shape {shape:?}"),
            None => "no such tensor".into(),
        };
        Err(self.wrong(name, "a matrix", got))
    }

    fn take<const D: usize>(
        &mut self,
        name: &str,
        expected: [usize; D],
    ) -> Result<Tensor<D>, Error> {
        let Some((shape, values)) = self.tensors.remove(name) else {
            return Err(self.wrong(name, format!("shape {expected:?}"), "no such tensor"));
        };
        if shape != expected {
            let got = format!("shape {shape:?}");
            return Err(self.wrong(name, format!("shape {expected:?}"), got));
        }
        if let Some(index) = values.iter().position(|x| !x.is_finite()) {
            let got = format!("{} at index {index}", values[index]);
            return Err(self.wrong(name, "finite numbers", got));
        }
        Ok(Tensor::from_data(
            TensorData::new(values, expected),
            self.device,
        ))
    }

    fn block(&mut self, index: usize, dim: usize) -> Result<Block, Error> {
        let name = |part: &str| format!("blocks.{index}.{part}");
        let [hidden, _] = self.matrix_shape(&name("MLP.p1.weight"))?;
        // Trained beside the others and never used by the program's forward pass.
        for part in ["MHSA", "MLP"] {
            self.tensors
                .remove(&name(&format!("{part}.preadditive.weight")));
        }
        let mut norm = |part: &str| {
            Ok::<_, Error>(Norm {
                weight: self.take(&name(&format!("{part}.weight")), [dim])?,
                bias: self.take(&name(&format!("{part}.bias")), [dim])?,
            })
        };
        let (norm1, norm2) = (norm("norm1")?, norm("norm2")?);
        let mut matrix = |part: &str, input, output| {
            let weight = self.take(&name(&format!("{part}.weight")), [output, input])?;
            Ok::<_, Error>(weight.transpose())
        };
        Ok(Block {
            norm1,
            q: matrix("MHSA.q", dim, dim)?,
            k: matrix("MHSA.k", dim, dim)?,
            v: matrix("MHSA.v", dim, dim)?,
            norm2,
            p1: matrix("MLP.p1", dim, hidden)?,
            p2: matrix("MLP.p2", hidden, dim)?,
        })
    }

    fn finish(self) -> Result<(), Error> {
        match self.tensors.keys().min() {
            Some(name) => Err(self.wrong(name, "no such tensor in an Alilama model", "one")),
            None => Ok(()),
        }
    }
}

/// A longer token is a broken file: each merge may double the length of the one before.
const LONGEST_TOKEN: usize = 256;

/// Reads a `minbpe` file: the 256 bytes are the first tokens, every line of the file's end merges
/// two tokens into the next one.
///
/// # Errors
/// If the file can't be read, is of another version, or merges what is no token yet.
pub fn read_vocabulary(path: &Path) -> Result<Vocabulary, Error> {
    let text = fs::read_to_string(path).map_err(Error::io(path, "read it"))?;
    let mut lines = text.lines();
    let mut line =
        |expected: &str| (lines.next()).ok_or_else(|| not_as_expected(path, expected, "its end"));
    let version = line("a minbpe file")?;
    if version != "minbpe v1" {
        return Err(not_as_expected(path, "minbpe v1", version));
    }
    line("the pattern that splits words")?;
    let specials = line("the number of special tokens")?;
    if specials != "0" {
        return Err(not_as_expected(path, "no special tokens", specials));
    }
    let mut pieces: Vec<Vec<u8>> = (0..=u8::MAX).map(|byte| vec![byte]).collect();
    for line in lines {
        let merged = line.split_once(' ').and_then(|(left, right)| {
            let piece = |id: &str| pieces.get(id.parse::<usize>().ok()?);
            Some([piece(left)?.as_slice(), piece(right)?].concat())
        });
        match merged {
            Some(piece) if piece.len() <= LONGEST_TOKEN => pieces.push(piece),
            _ => {
                let expected = format!(
                    "two tokens below {}, together at most {LONGEST_TOKEN} bytes",
                    pieces.len()
                );
                return Err(not_as_expected(path, expected, line));
            }
        }
    }
    Ok(Vocabulary { pieces })
}
