//! The CPU provider, row by row: files for a GPU run here to be checked.

use std::convert::Infallible;

use ort::{operator::ComputeContext, value::Shape};
use ssamba_contract::op::add_layer_norm::{Attributes, PARAMETERS, Sizes};

use super::AddLayerNorm;
use crate::{
    cpu::{Cpu, Element, Inputs},
    operator::Run,
};

impl<T: Element> Run<AddLayerNorm> for Cpu<T> {
    fn run(&self, attributes: &Attributes, context: &ComputeContext) -> ort::Result<()> {
        let inputs = Inputs::of(context)?;
        let operands = inputs.read::<T>(&PARAMETERS)?;
        let sizes = Sizes::infer(&operands.shapes()).map_err(ort::Error::wrap)?;
        // Present, or `Sizes::infer` would have named what is missing.
        let [Some(x), Some(update), Some(weight), Some(bias)] =
            operands.values.each_ref().map(Option::as_deref)
        else {
            return Err(ort::Error::new("an operand is missing"));
        };
        let shape = Shape::new(sizes.output_shape().map(|size| size as i64));
        let output = |index| {
            let output = context.output(index, shape.clone())?;
            output.ok_or_else(|| ort::Error::new("an output has no value"))
        };
        let (mut y, mut sum) = (output(0)?, output(1)?);
        let (_, y) = y.try_extract_tensor_mut::<T>()?;
        let (_, sum) = sum.try_extract_tensor_mut::<T>()?;
        let Ok(()) = T::fill(sum, |sum| {
            add(&sizes, x, update, sum);
            Ok::<_, Infallible>(())
        });
        // As it was rounded.
        let sum = T::widen(sum);
        let Ok(()) = T::fill(y, |y| {
            norm(&sizes, attributes.epsilon(), &sum, weight, bias, y);
            Ok::<_, Infallible>(())
        });
        Ok(())
    }
}

fn add(sizes: &Sizes, x: &[f32], update: &[f32], sum: &mut [f32]) {
    let &Sizes { seq_len, d_model, update_per_clip, update_per_token, .. } = sizes;
    let rows_of_clip = if update_per_token { seq_len } else { 1 };
    // No axis is empty where there is a row.
    let rows = x.chunks_exact(d_model.max(1)).zip(sum.chunks_exact_mut(d_model.max(1)));
    for (row, (x, sum)) in rows.enumerate() {
        let clip = if update_per_clip { row / seq_len } else { 0 };
        let token = if update_per_token { row % seq_len } else { 0 };
        let update = &update[(clip * rows_of_clip + token) * d_model..][..d_model];
        for ((sum, x), update) in sum.iter_mut().zip(x).zip(update) {
            *sum = x + update;
        }
    }
}

fn norm(sizes: &Sizes, epsilon: f32, sum: &[f32], weight: &[f32], bias: &[f32], y: &mut [f32]) {
    let width = sizes.d_model.max(1);
    for (sum, y) in sum.chunks_exact(width).zip(y.chunks_exact_mut(width)) {
        let mean = sum.iter().sum::<f32>() / width as f32;
        let squares: f32 = sum.iter().map(|value| (value - mean) * (value - mean)).sum();
        let scale = 1.0 / (squares / width as f32 + epsilon).sqrt();
        for (((y, value), weight), bias) in y.iter_mut().zip(sum).zip(weight).zip(bias) {
            *y = (value - mean) * scale * weight + bias;
        }
    }
}
