//! Multi-head self-attention, every product spelled out.
//!
//! The `Attention` of timm 0.4.5 `vision_transformer.py`, which YuanGongND/ssast@a1a3eec builds on:
//! one projection to queries, keys and values, in this order, each split by heads.

use candle_core::{D, Result, Tensor};
use ssamba_model_common::layers::linear;

use crate::config::HEAD_WIDTH;

/// Parameters of one attention.
#[derive(Clone, Debug)]
pub struct AttentionWeights {
    /// `[3 * d_model, d_model]`: rows of queries, then keys, then values.
    pub qkv: Tensor,
    /// `[3 * d_model]`
    pub qkv_bias: Tensor,
    /// `[d_model, d_model]`
    pub proj: Tensor,
    /// `[d_model]`
    pub proj_bias: Tensor,
}

impl AttentionWeights {
    /// `hidden` `[batch, seq_len, d_model]` to the same shape.
    ///
    /// # Errors
    /// When `d_model` is another.
    pub fn forward(&self, hidden: &Tensor) -> Result<Tensor> {
        let (batch, seq_len, d_model) = hidden.dims3()?;
        let split = (batch, seq_len, 3, d_model / HEAD_WIDTH, HEAD_WIDTH);
        // [3, batch, heads, seq_len, HEAD_WIDTH]
        let qkv = linear(hidden, &self.qkv)?
            .broadcast_add(&self.qkv_bias)?
            .reshape(split)?
            .permute((2, 0, 3, 1, 4))?;
        let (q, k, v) = (
            qkv.get(0)?.contiguous()?,
            qkv.get(1)?.transpose(2, 3)?.contiguous()?,
            qkv.get(2)?.contiguous()?,
        );
        let scores = (q.matmul(&k)? * (HEAD_WIDTH as f64).powf(-0.5))?;
        let mixed = softmax(&scores)?.matmul(&v)?;
        let mixed = mixed.transpose(1, 2)?.reshape((batch, seq_len, d_model))?;
        linear(&mixed, &self.proj)?.broadcast_add(&self.proj_bias)
    }
}

/// Over the last axis.
fn softmax(x: &Tensor) -> Result<Tensor> {
    let exp = x.broadcast_sub(&x.max_keepdim(D::Minus1)?)?.exp()?;
    exp.broadcast_div(&exp.sum_keepdim(D::Minus1)?)
}
