//! Random numbers that depend on their seed alone, on every machine: splitmix64.
//!
//! A stream is made from the seed and from what it is for (an epoch, a clip), so that nothing has to be
//! kept for a run to go on where it stopped, and no draw depends on which thread made it.

/// A stream of random numbers.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The stream of `seed` for a purpose, which is told by numbers.
    pub fn new(seed: u64, purpose: &[u64]) -> Self {
        let mut random = Self(seed);
        for number in purpose {
            random.0 = random.bits() ^ number.wrapping_mul(0xD6E8_FEB8_6659_FD93);
        }
        random
    }

    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut bits = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        bits ^ (bits >> 31)
    }

    /// Uniform in [0, 1).
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Uniform in [low, high).
    pub fn range(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.unit()
    }

    /// Uniform among `0..count`; 0 where there is none.
    pub fn below(&mut self, count: usize) -> usize {
        ((self.unit() * count as f64) as usize).min(count.saturating_sub(1))
    }

    /// Of mean 0 and deviation 1.
    pub fn normal(&mut self) -> f64 {
        // 1 - u is never 0.
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.unit()).cos()
    }

    /// Beta(shape, shape), for whole `shape`: ratio of sums of exponentials.
    pub fn beta(&mut self, shape: usize) -> f64 {
        let mut gamma = || -> f64 { (0..shape).map(|_| -(1.0 - self.unit()).ln()).sum() };
        let (a, b) = (gamma(), gamma());
        a / (a + b)
    }

    /// `0..count` in random order.
    pub fn order(&mut self, count: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..count).collect();
        for last in (1..count).rev() {
            order.swap(last, self.below(last + 1));
        }
        order
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_differ_by_seed_and_purpose() {
        let first = |seed, purpose: &[u64]| Random::new(seed, purpose).unit();
        assert_eq!(first(1, &[2, 3]), first(1, &[2, 3]));
        assert_ne!(first(1, &[2, 3]), first(1, &[3, 2]));
        assert_ne!(first(1, &[2]), first(2, &[2]));
        assert_ne!(first(1, &[0]), first(1, &[]));
    }

    #[test]
    fn moments_are_those_of_the_distributions() {
        let mut random = Random::new(3, &[]);
        let mut moments = |draw: &mut dyn FnMut(&mut Random) -> f64| {
            let n = 40_000;
            let draws: Vec<f64> = (0..n).map(|_| draw(&mut random)).collect();
            let mean = draws.iter().sum::<f64>() / f64::from(n);
            (mean, draws.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / f64::from(n))
        };
        for (draw, mean, variance) in [
            (&mut Random::unit as &mut dyn FnMut(&mut Random) -> f64, 0.5, 1.0 / 12.0),
            (&mut Random::normal, 0.0, 1.0),
            (&mut |random: &mut Random| random.beta(10), 0.5, 1.0 / 84.0),
            (&mut |random: &mut Random| random.beta(1), 0.5, 1.0 / 12.0),
        ] {
            let got = moments(draw);
            assert!((got.0 - mean).abs() < 0.02 && (got.1 - variance).abs() < 0.02, "{got:?}");
        }
    }

    #[test]
    fn an_order_holds_every_index_once() {
        let mut order = Random::new(7, &[]).order(100);
        assert_ne!(order, (0..100).collect::<Vec<_>>());
        order.sort_unstable();
        assert_eq!(order, (0..100).collect::<Vec<_>>());
    }
}
