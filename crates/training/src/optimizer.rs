//! AdamW, and Adam as upstream uses it, over all values of a network at once.

use crate::{
    network::Network,
    plan::{Decay, Plan},
};

const EPS: f64 = 1e-8;

/// Moments, and which values decay or learn faster.
#[derive(Clone, Debug, PartialEq)]
pub struct Optimizer {
    /// First moments.
    pub first: Vec<f32>,
    /// Second moments.
    pub second: Vec<f32>,
    /// Steps taken.
    pub steps: u64,
    groups: Vec<Group>,
}

/// Values with settings of their own.
#[derive(Clone, Debug, PartialEq)]
struct Group {
    end: usize,
    decays: bool,
    is_head: bool,
}

/// Whether weight decay acts on a parameter: on matrices and convolution taps.
fn is_matrix(name: &str) -> bool {
    name.ends_with(".weight") && !name.contains("norm") && !name.starts_with("mlp_head.0.")
}

impl Optimizer {
    /// Moments at zero.
    pub fn new(network: &Network) -> Self {
        let groups = network
            .places()
            .map(|(name, place)| Group {
                end: place.end,
                decays: is_matrix(name),
                is_head: name.starts_with("mlp_head."),
            })
            .collect();
        let zeros = vec![0.0; network.len()];
        Self { first: zeros.clone(), second: zeros, steps: 0, groups }
    }

    /// One step at `rate`, with gradients already summed and clipped.
    pub fn step(&mut self, plan: &Plan, rate: f64, values: &mut [f32], gradients: &[f32]) {
        self.steps += 1;
        let [beta1, beta2] = plan.betas;
        let correction = |beta: f64| 1.0 - beta.powi(self.steps.min(i32::MAX as u64) as i32);
        let root = correction(beta2).sqrt();
        let mut start = 0;
        for group in &self.groups {
            let rate = if group.is_head { rate * plan.head_rate } else { rate };
            let (shrink, pull) = match plan.decay {
                Decay::Decoupled if group.decays => (1.0 - rate * plan.weight_decay, 0.0),
                Decay::Decoupled => (1.0, 0.0),
                Decay::Coupled => (1.0, plan.weight_decay),
            };
            let step = (rate / correction(beta1)) as f32;
            let (shrink, pull, root, eps) =
                (shrink as f32, pull as f32, 1.0 / root as f32, EPS as f32);
            let (beta1, beta2) = (beta1 as f32, beta2 as f32);
            let all = values[start..group.end]
                .iter_mut()
                .zip(&gradients[start..group.end])
                .zip(&mut self.first[start..group.end])
                .zip(&mut self.second[start..group.end]);
            for (((value, gradient), first), second) in all {
                let gradient = gradient + pull * *value;
                *first = beta1 * *first + (1.0 - beta1) * gradient;
                *second = beta2 * *second + (1.0 - beta2) * gradient * gradient;
                *value = shrink * *value - step * *first / (second.sqrt() * root + eps);
            }
            start = group.end;
        }
    }
}

/// Shortens gradients to a norm of at most `longest`; gives the norm that they had.
pub fn clip(gradients: &mut [f32], longest: Option<f64>) -> f64 {
    let norm = gradients.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt();
    if let Some(longest) = longest.filter(|&longest| norm > longest) {
        let factor = (longest / norm) as f32;
        gradients.iter_mut().for_each(|x| *x *= factor);
    }
    norm
}

#[cfg(test)]
mod tests {
    use super::*;

    fn optimizer(decays: bool) -> Optimizer {
        let groups = vec![Group { end: 1, decays, is_head: false }];
        Optimizer { first: vec![0.0], second: vec![0.0], steps: 0, groups }
    }

    #[test]
    fn the_first_step_is_as_long_as_the_rate() {
        let plan = Plan::named("nano").unwrap();
        for (decays, start, end) in [(false, 1.0, 0.9), (true, 1.0, 0.895), (true, 0.0, -0.1)] {
            let mut values = [start];
            optimizer(decays).step(&plan, 0.1, &mut values, &[3.0]);
            assert!((values[0] - end).abs() < 1e-6, "{values:?}, expected {end}");
        }
    }

    #[test]
    fn two_steps_are_those_of_the_definition() {
        let plan =
            Plan { decay: Decay::Coupled, weight_decay: 0.5, ..Plan::named("nano").unwrap() };
        let mut optimizer = optimizer(false);
        let (mut values, mut want) = ([0.4_f32], 0.4_f64);
        let (mut first, mut second) = (0.0, 0.0);
        for (step, gradient) in [(1, 0.3), (2, -0.7)] {
            optimizer.step(&plan, 0.01, &mut values, &[gradient as f32]);
            let gradient = gradient + 0.5 * want;
            first = 0.9 * first + 0.1 * gradient;
            second = 0.98 * second + 0.02 * gradient * gradient;
            let unbiased: f64 = second / (1.0 - 0.98_f64.powi(step));
            want -= 0.01 * first / (1.0 - 0.9_f64.powi(step)) / (unbiased.sqrt() + EPS);
        }
        assert!((f64::from(values[0]) - want).abs() < 1e-6, "{values:?}, expected {want}");
    }

    #[test]
    fn long_gradients_are_shortened() {
        let mut gradients = [3.0, 4.0];
        assert_eq!(clip(&mut gradients, Some(1.0)), 5.0);
        assert!((gradients[0] - 0.6).abs() < 1e-6 && (gradients[1] - 0.8).abs() < 1e-6);
        assert_eq!(clip(&mut gradients, None), clip(&mut gradients, Some(2.0)));
    }

    #[test]
    fn matrices_decay_and_vectors_do_not() {
        for (name, decays) in [
            ("v.layers.0.mixer.in_proj.weight", true),
            ("v.layers.0.mixer.conv1d_b.weight", true),
            ("v.patch_embed.proj.weight", true),
            ("v.blocks.0.attn.qkv.weight", true),
            ("v.blocks.0.mlp.fc2.weight", true),
            ("mlp_head.1.weight", true),
            ("mlp_head.0.weight", false),
            ("v.layers.0.norm.weight", false),
            ("v.norm_f.weight", false),
            ("v.blocks.0.norm2.weight", false),
            ("v.norm.weight", false),
            ("v.blocks.0.attn.qkv.bias", false),
            ("v.layers.0.mixer.A_log", false),
            ("v.pos_embed", false),
            ("v.patch_embed.proj.bias", false),
        ] {
            assert_eq!(is_matrix(name), decays, "{name}");
        }
    }
}
