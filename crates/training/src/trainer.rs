//! Steps, epochs, and the state between them.
//!
//! A batch is cut into parts of a few clips; threads take parts, and gradients are added up in the
//! order of the parts. So a run gives the same bits on any number of threads, and what it needs of
//! memory follows the part and not the batch.

use std::{
    collections::BTreeMap,
    num::NonZeroUsize,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
};

use anyhow::{Context, Result, bail, ensure};
use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};
use ssamba_model_common::Checkpoint;

use crate::{
    augment::{self, Finish, Frames},
    distill::Teacher,
    gpu::Gpu,
    loss::loss,
    network::Network,
    optimizer::{Optimizer, clip},
    plan::{Loss, Plan, Schedule},
    random::Random,
    score::highest,
};

/// Most clips of a part.
const PART: usize = 8;

/// Values of the widest sequence of a part. candle's sums of longer ones run on threads of its own,
/// for which all of ours would wait, one after the other.
const PART_VALUES: usize = 65_535;

/// Purposes of random streams.
const ORDER: u64 = 1;
const CLIP: u64 = 2;
pub(crate) const MASKS: u64 = 3;

/// A clip, and the classes that are right for it.
#[derive(Clone, Debug, PartialEq)]
pub struct Example {
    /// `[frames, n_mels]`, log-mel, not normalised.
    pub frames: Vec<f32>,
    /// Indices of classes.
    pub classes: Vec<usize>,
}

/// Clips to learn from.
#[derive(Clone, Debug, Default)]
pub struct Data {
    /// All of them.
    pub clips: Vec<Example>,
    /// Indices of clips that may be mixed into others.
    pub background: Vec<usize>,
}

/// Where a run is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Epochs done.
    pub epoch: usize,
    /// Steps done of the epoch under way.
    pub step: usize,
    /// Of the epoch under way.
    pub sums: Sums,
    /// Product of all factors of a plateau so far.
    pub plateau: Option<f64>,
    /// Best score of validation so far.
    pub best: Option<f64>,
    /// Loss of validation beside it.
    #[serde(default)]
    pub best_loss: Option<f64>,
    /// Epoch of the best score, counted from 1.
    pub best_epoch: usize,
    /// Epochs since the last gain or factor.
    pub waited: usize,
}

/// What validation says of an epoch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Validation {
    /// The higher the better.
    pub score: f64,
    /// Decides between equal scores, the lower the better: a few hundred clips give few different ones.
    pub loss: f64,
}

/// What is summed over the clips of an epoch.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sums {
    /// Clips.
    pub clips: usize,
    /// Loss.
    pub loss: f64,
    /// What an objective counts besides.
    pub others: [f64; 3],
}

impl Sums {
    fn add(&mut self, other: &Self) {
        self.clips += other.clips;
        self.loss += other.loss;
        self.others.iter_mut().zip(other.others).for_each(|(sum, x)| *sum += x);
    }

    /// Mean loss.
    pub fn mean_loss(&self) -> f64 {
        self.loss / self.clips.max(1) as f64
    }

    /// Mean of what else was counted.
    pub fn mean(&self, index: usize) -> f64 {
        self.others[index] / self.clips.max(1) as f64
    }
}

/// What an objective makes of a part: its loss, summed over clips, and what else it counts.
pub struct Measured {
    /// A scalar.
    pub loss: Tensor,
    /// Summed over clips.
    pub others: [f64; 3],
}

/// A run under way.
#[derive(Debug)]
pub struct Trainer {
    /// The network that learns.
    pub network: Network,
    /// How it learns.
    pub plan: Plan,
    /// Of all random draws.
    pub seed: u64,
    /// Where the run is.
    pub progress: Progress,
    pub(crate) teachers: Vec<Teacher>,
    optimizer: Optimizer,
    values: Vec<f32>,
    threads: NonZeroUsize,
}

/// One step, for people.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// Learning rate.
    pub rate: f64,
    /// Norm of the gradient before it was clipped.
    pub norm: f64,
}

/// The state file's words; its numbers are tensors.
#[derive(Serialize, Deserialize, PartialEq)]
struct State {
    plan: Plan,
    seed: u64,
    clips: usize,
    progress: Progress,
    steps: u64,
}

impl Trainer {
    /// A run at its start.
    ///
    /// # Errors
    /// Never for networks on the CPU.
    pub fn new(network: Network, plan: Plan, seed: u64, threads: NonZeroUsize) -> Result<Self> {
        let optimizer = Optimizer::new(&network);
        let values = network.values()?;
        let (progress, teachers) = (Progress::default(), Vec::new());
        Ok(Self { network, plan, seed, progress, teachers, optimizer, values, threads })
    }

    /// Clips of a part, which the network alone decides: sums are the same on any machine's threads.
    pub(crate) fn part(&self) -> usize {
        let (config, seq_len) = (self.network.config(), self.network.seq_len());
        match self.network.gpu() {
            Some(_) => Gpu::part(config.kept(seq_len)),
            None => (PART_VALUES / config.widest(seq_len)).clamp(1, PART),
        }
    }

    /// Threads that take parts, and threads that prepare the clips of a part: a GPU takes one part at a
    /// time, and waits for its clips.
    fn threads(&self) -> (NonZeroUsize, NonZeroUsize) {
        match self.network.gpu() {
            Some(_) => (NonZeroUsize::MIN, self.threads),
            None => (self.threads, NonZeroUsize::MIN),
        }
    }

    /// Indices of the clips of each step of the epoch under way.
    pub fn batches(&self, clips: usize) -> Vec<Vec<usize>> {
        let order = Random::new(self.seed, &[ORDER, self.progress.epoch as u64]).order(clips);
        order.chunks(self.plan.batch.max(1)).map(<[usize]>::to_vec).collect()
    }

    /// The stream of random numbers of a clip in the epoch under way.
    pub(crate) fn random(&self, purpose: u64, clip: usize) -> Random {
        Random::new(self.seed, &[purpose, self.progress.epoch as u64, clip as u64])
    }

    /// One step on labelled clips.
    ///
    /// # Errors
    /// When a loss or gradient is not finite; the message names the step and the tensor.
    pub fn step(&mut self, data: &Data, batch: &[usize], steps_of_epoch: usize) -> Result<Step> {
        let this = &*self;
        let (gradients, sums) = this.accumulate(batch, |part| this.measure(data, part))?;
        self.apply(gradients, &sums, steps_of_epoch)
    }

    /// The loss of a part, and how many of its clips are right.
    fn measure(&self, data: &Data, part: &[usize]) -> Result<Measured> {
        let front_end = &self.network.recipe().front_end;
        let n_classes = self.network.sizes().n_classes.unwrap_or(0);
        let examples = Mutex::new(vec![None; part.len()]);
        in_parallel(part.len(), self.threads().1, |place| {
            let mut random = self.random(CLIP, part[place]);
            let (sound, target) = self.example(data, part[place], n_classes, &mut random);
            let finish = Finish::draw(&self.plan.augmentation, front_end, &mut random);
            let fbank = finish.apply(sound.clone(), front_end);
            let example = Some((fbank, target, (sound, finish)));
            examples.lock().unwrap_or_else(PoisonError::into_inner)[place] = example;
            Ok(())
        })?;
        let examples = examples.into_inner().unwrap_or_else(PoisonError::into_inner);
        let (mut fbanks, mut targets, mut clips) = (Vec::new(), Vec::new(), Vec::new());
        for (fbank, target, clip) in examples.into_iter().flatten() {
            fbanks.extend(fbank);
            targets.extend(target);
            clips.push(clip);
        }
        let shape = (part.len(), front_end.n_frames, front_end.n_mels);
        let logits = self.network.logits(&Tensor::from_vec(fbanks, shape, &Device::Cpu)?)?;
        let right = logits.to_vec2::<f32>()?.iter().zip(targets.chunks(n_classes.max(1))).fold(
            0.0,
            |right, (logits, target)| {
                right + f64::from(u8::from(highest(logits) == highest(target)))
            },
        );
        let targets = self.taught(targets, &clips)?;
        let targets = Tensor::from_vec(targets, (part.len(), n_classes), &Device::Cpu)?;
        let loss = loss(self.plan.loss, &logits, &targets)?;
        Ok(Measured { loss, others: [right, 0.0, 0.0] })
    }

    /// How a clip sounds, and what its labels say.
    fn example(
        &self,
        data: &Data,
        index: usize,
        n_classes: usize,
        random: &mut Random,
    ) -> (Vec<f32>, Vec<f32>) {
        let (plan, front_end) = (&self.plan, &self.network.recipe().front_end);
        let target = |classes: &[usize]| {
            let share = match plan.loss {
                Loss::CrossEntropy => 1.0 / classes.len().max(1) as f64,
                Loss::Binary => 1.0,
            };
            let mut target = vec![(plan.smoothing / n_classes as f64) as f32; n_classes];
            for &class in classes {
                target[class] += ((1.0 - plan.smoothing) * share) as f32;
            }
            target
        };
        let clip = &data.clips[index];
        let mut wanted = target(&clip.classes);
        let mut mixed = None;
        if random.unit() < plan.augmentation.mixup {
            let other = &data.clips[random.below(data.clips.len())];
            // A mix of two waveforms, in the powers that it comes to.
            let part = random.beta(plan.augmentation.mixup_shape);
            mixed = Some(augment::powers(&clip.frames, &other.frames, part));
            augment::mix(&mut wanted, &target(&other.classes), part as f32);
        }
        let background: Option<&Frames> = match data.background.is_empty() {
            true => None,
            false => {
                let chosen = data.background[random.below(data.background.len())];
                Some(&data.clips[chosen].frames)
            }
        };
        let frames = mixed.as_deref().unwrap_or(&clip.frames);
        let how = &plan.augmentation;
        (augment::sound(frames, background, how, front_end, random), wanted)
    }

    /// Gradients of the mean loss over a batch, and sums over its clips.
    ///
    /// # Errors
    /// The first of the parts' errors.
    pub(crate) fn accumulate(
        &self,
        batch: &[usize],
        objective: impl Fn(&[usize]) -> Result<Measured> + Sync,
    ) -> Result<(Vec<f32>, Sums)> {
        let parts: Vec<&[usize]> = batch.chunks(self.part()).collect();
        let total = Mutex::new(Total {
            gradients: vec![0.0; self.network.len()],
            sums: Sums::default(),
            added: 0,
            early: BTreeMap::new(),
        });
        in_parallel(parts.len(), self.threads().0, |index| {
            let part = parts[index];
            let Measured { loss, others } = objective(part)?;
            let store = loss.backward()?;
            let mut gradients = vec![0.0; self.network.len()];
            for ((name, var), (_, place)) in self.network.parameters().zip(self.network.places()) {
                // A parameter that the objective does not use has none.
                if let Some(gradient) = store.get(var) {
                    let values = gradient.flatten_all()?.to_vec1::<f32>();
                    gradients[place].copy_from_slice(&values.with_context(|| name.to_owned())?);
                }
            }
            let loss = f64::from(loss.to_scalar::<f32>()?);
            let sums = Sums { clips: part.len(), loss, others };
            total.lock().unwrap_or_else(PoisonError::into_inner).add(index, gradients, sums);
            Ok(())
        })?;
        let Total { mut gradients, sums, .. } =
            total.into_inner().unwrap_or_else(PoisonError::into_inner);
        let share = 1.0 / batch.len().max(1) as f32;
        gradients.iter_mut().for_each(|x| *x *= share);
        Ok((gradients, sums))
    }

    /// Takes a step with gradients of the mean loss.
    ///
    /// # Errors
    /// When something is not finite; nothing has changed then.
    pub(crate) fn apply(
        &mut self,
        mut gradients: Vec<f32>,
        sums: &Sums,
        steps_of_epoch: usize,
    ) -> Result<Step> {
        let done = self.optimizer.steps as usize;
        let wrong = self
            .network
            .places()
            .find(|(_, place)| gradients[place.clone()].iter().any(|x| !x.is_finite()));
        if !sums.loss.is_finite() || wrong.is_some() {
            let what = match wrong {
                Some((name, _)) => format!("the gradient of `{name}` is not finite"),
                None => "all gradients are finite".into(),
            };
            bail!(
                "step {}: the loss is {}, {what}; try a lower --rate, or look for damaged clips",
                done + 1,
                sums.mean_loss()
            );
        }
        let norm = clip(&mut gradients, self.plan.clip);
        let rate = self.plan.rate_at(done, steps_of_epoch) * self.progress.plateau.unwrap_or(1.0);
        self.optimizer.step(&self.plan, rate, &mut self.values, &gradients);
        self.network.set_values(&self.values)?;
        self.progress.step += 1;
        self.progress.sums.add(sums);
        Ok(Step { rate, norm })
    }

    /// Ends an epoch; whether it is the best so far by `validation`, always without one.
    pub fn end_epoch(&mut self, validation: Option<Validation>) -> bool {
        let progress = &mut self.progress;
        progress.epoch += 1;
        progress.step = 0;
        progress.sums = Sums::default();
        let Some(Validation { score, loss }) = validation else { return true };
        let higher = progress.best.is_none_or(|best| score > best);
        let lower = progress.best_loss.is_none_or(|best| loss < best);
        if higher {
            progress.waited = 0;
        } else {
            progress.waited += 1;
            if let Schedule::Plateau { factor, patience } = self.plan.schedule
                && progress.waited > patience
            {
                progress.plateau = Some(progress.plateau.unwrap_or(1.0) * factor);
                progress.waited = 0;
            }
        }
        let better = higher || progress.best == Some(score) && lower;
        if better {
            (progress.best, progress.best_loss) = (Some(score), Some(loss));
            progress.best_epoch = progress.epoch;
        }
        better
    }

    /// Logits of clips, as the network is now.
    ///
    /// # Errors
    /// Never for clips of the recipe's mel bins.
    pub fn logits(&self, clips: &[Example]) -> Result<Vec<Vec<f32>>> {
        self.logits_of(&self.network, clips)
    }

    /// Logits of clips by the weights of a checkpoint of this run.
    ///
    /// # Errors
    /// When the checkpoint is of another network.
    pub fn logits_by(&self, checkpoint: &Checkpoint, clips: &[Example]) -> Result<Vec<Vec<f32>>> {
        let n_classes = self.network.sizes().n_classes.unwrap_or(0);
        let recipe = self.network.recipe().clone();
        let network = Network::from_checkpoint(checkpoint, recipe, n_classes, self.seed)?;
        let network = match self.network.gpu() {
            Some(gpu) => network.on(gpu.clone()),
            None => network,
        };
        self.logits_of(&network, clips)
    }

    fn logits_of(&self, network: &Network, clips: &[Example]) -> Result<Vec<Vec<f32>>> {
        let front_end = &network.recipe().front_end;
        let parts: Vec<&[Example]> = clips.chunks(self.part()).collect();
        let rows = Mutex::new(vec![Vec::new(); parts.len()]);
        in_parallel(parts.len(), self.threads().0, |index| {
            let fbanks: Vec<f32> = parts[index]
                .iter()
                .flat_map(|clip| augment::plain(&clip.frames, front_end))
                .collect();
            let shape = (parts[index].len(), front_end.n_frames, front_end.n_mels);
            let fbank = Tensor::from_vec(fbanks, shape, &Device::Cpu)?;
            let logits = network.logits(&fbank)?.to_vec2::<f32>()?;
            rows.lock().unwrap_or_else(PoisonError::into_inner)[index] = logits;
            Ok(())
        })?;
        Ok(rows.into_inner().unwrap_or_else(PoisonError::into_inner).concat())
    }

    /// Everything that is needed to go on exactly, as a safetensors file. `clips` is how many there
    /// are to learn from.
    ///
    /// # Errors
    /// Never for a run on the CPU.
    pub fn state(&self, clips: usize) -> Result<Vec<u8>> {
        let state = State {
            plan: self.plan.clone(),
            seed: self.seed,
            clips,
            progress: self.progress.clone(),
            steps: self.optimizer.steps,
        };
        let optimizer = &self.optimizer;
        let tensors =
            [("first", &optimizer.first), ("second", &optimizer.second), ("values", &self.values)];
        let tensors = tensors.map(|(name, values)| {
            Ok((name.to_owned(), Tensor::from_slice(values, values.len(), &Device::Cpu)?))
        });
        let tensors = tensors.into_iter().collect::<Result<BTreeMap<_, _>>>()?;
        to_safetensors(&tensors, Some(serde_json::to_string(&state)?))
    }

    /// Goes on from a state file.
    ///
    /// # Errors
    /// When the file is of another plan, seed, network or number of clips, or of other teachers; the
    /// message says which.
    pub fn restore(&mut self, bytes: &[u8], clips: usize) -> Result<()> {
        let (_, header) = safetensors::SafeTensors::read_metadata(bytes)
            .context("not the state of a run, or a damaged one")?;
        let words = header.metadata().as_ref().and_then(|words| words.get(STATE));
        let state: State = serde_json::from_str(words.context("not the state of a run")?)
            .context("not the state of a run of this version")?;
        let teachers = |plan: &Plan| plan.distillation.as_ref().map(|how| how.teachers.clone());
        ensure!(
            teachers(&state.plan) == teachers(&self.plan),
            "the state is of a run with other teachers; resume with those that it began with, in their order"
        );
        ensure!(
            state.plan == self.plan && state.seed == self.seed,
            "the state is of another plan, with seed {}; resume with the options that it began with",
            state.seed
        );
        ensure!(
            state.clips == clips,
            "the state is of a run over {} clips, there are {clips} now",
            state.clips
        );
        let file = safetensors::SafeTensors::deserialize(bytes)?;
        let values = |name: &str| -> Result<Vec<f32>> {
            let data = file.tensor(name)?;
            let values: Vec<f32> = data
                .data()
                .chunks_exact(4)
                .map(|bytes| f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
                .collect();
            ensure!(
                values.len() == self.network.len(),
                "the state is of a network of {} values, this one has {}",
                values.len(),
                self.network.len()
            );
            Ok(values)
        };
        let (first, second, values) = (values("first")?, values("second")?, values("values")?);
        self.network.set_values(&values)?;
        self.values = values;
        (self.optimizer.first, self.optimizer.second) = (first, second);
        self.optimizer.steps = state.steps;
        self.progress = state.progress;
        Ok(())
    }

    /// The official checkpoint, as a safetensors file.
    ///
    /// # Errors
    /// Never for a run on the CPU.
    pub fn checkpoint(&self) -> Result<Vec<u8>> {
        to_safetensors(&self.network.official()?, None)
    }
}

/// Gradients so far, added in the order of parts.
struct Total {
    gradients: Vec<f32>,
    sums: Sums,
    added: usize,
    /// Parts that were done before their turn.
    early: BTreeMap<usize, (Vec<f32>, Sums)>,
}

impl Total {
    fn add(&mut self, index: usize, gradients: Vec<f32>, sums: Sums) {
        self.early.insert(index, (gradients, sums));
        while let Some((gradients, sums)) = self.early.remove(&self.added) {
            self.gradients.iter_mut().zip(&gradients).for_each(|(sum, x)| *sum += x);
            self.sums.add(&sums);
            self.added += 1;
        }
    }
}

/// Calls `task` with each of `0..tasks`; the error is that of the first task that failed.
///
/// # Errors
/// What a task returned.
pub fn in_parallel(
    tasks: usize,
    threads: NonZeroUsize,
    task: impl Fn(usize) -> Result<()> + Sync,
) -> Result<()> {
    let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let failed: Mutex<Option<(usize, anyhow::Error)>> = Mutex::new(None);
    let work = || {
        while !stop.load(Ordering::Relaxed) {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= tasks {
                return;
            }
            if let Err(error) = task(index) {
                stop.store(true, Ordering::Relaxed);
                let mut failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
                if failed.as_ref().is_none_or(|(first, _)| index < *first) {
                    *failed = Some((index, error));
                }
            }
        }
    };
    thread::scope(|scope| {
        for _ in 1..threads.get().min(tasks) {
            // A thread that the system refuses is done without.
            if thread::Builder::new().spawn_scoped(scope, work).is_err() {
                break;
            }
        }
        work();
    });
    match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some((_, error)) => Err(error),
        None => Ok(()),
    }
}

/// The one key of a state file's metadata: with several, their order would differ from run to run.
const STATE: &str = "ssamba-edge";

/// A safetensors file of `tensors`, with `words` for a program in its header.
///
/// # Errors
/// When a tensor is neither of `f32` nor of `i64`.
pub fn to_safetensors(
    tensors: &BTreeMap<String, Tensor>,
    words: Option<String>,
) -> Result<Vec<u8>> {
    use safetensors::{Dtype, tensor::TensorView};
    let mut stored = Vec::with_capacity(tensors.len());
    for (name, tensor) in tensors {
        let (dtype, bytes): (_, Vec<u8>) = match tensor.dtype() {
            candle_core::DType::I64 => {
                let values = tensor.flatten_all()?.to_vec1::<i64>()?;
                (Dtype::I64, values.iter().flat_map(|x| x.to_le_bytes()).collect())
            }
            _ => {
                let values = tensor.flatten_all()?.to_vec1::<f32>()?;
                (Dtype::F32, values.iter().flat_map(|x| x.to_le_bytes()).collect())
            }
        };
        stored.push((name, dtype, tensor.dims().to_vec(), bytes));
    }
    let views = stored
        .iter()
        .map(|(name, dtype, shape, bytes)| {
            Ok((*name, TensorView::new(*dtype, shape.clone(), bytes)?))
        })
        .collect::<Result<Vec<_>>>()?;
    let words = words.map(|words| [(STATE.to_owned(), words)].into());
    Ok(safetensors::serialize(views, words)?)
}
