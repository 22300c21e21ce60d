//! What lies between the thread of a device and the network: a queue of fixed size that the device never waits for.
//!
//! Whatever is lost on the way is counted, and said.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread::{self, Thread},
    time::{Duration, Instant},
};

use anyhow::{Result, bail, ensure};
use rtrb::{Consumer, Producer, RingBuffer, chunks::ChunkError};

/// From one look at the queue to the next, should a call to wake up get lost.
const PAUSE: Duration = Duration::from_millis(100);
/// From one warning to the next.
const BETWEEN_WARNINGS: Duration = Duration::from_secs(1);

/// Both ends of a queue of `capacity` samples, at `rate` Hz. The thread that calls is the one that receives.
pub fn new(capacity: u32, rate: u32) -> (Sender, Receiver) {
    let (producer, consumer) = RingBuffer::new(capacity as usize);
    let shared = Arc::new(Shared {
        dropped: AtomicU64::new(0),
        overruns: AtomicU64::new(0),
        end: OnceLock::new(),
        receiver: thread::current(),
    });
    let sender = Sender { samples: producer, signal: Signal(shared.clone()) };
    (sender, Receiver { samples: consumer, shared, rate, losses: Losses::default() })
}

struct Shared {
    /// Samples that found no room, and were not told of yet.
    dropped: AtomicU64,
    /// Gaps of unknown length that the device told of, likewise.
    overruns: AtomicU64,
    end: OnceLock<End>,
    receiver: Thread,
}

enum End {
    /// Somebody asked for it.
    Stopped,
    /// The device can no longer be heard.
    Failed(String),
}

/// The end of the device.
pub struct Sender {
    samples: Producer<f32>,
    signal: Signal,
}

impl Sender {
    /// Takes in the samples that there is room for, and counts the others. Never waits.
    pub fn push(&mut self, samples: impl ExactSizeIterator<Item = f32>) {
        let given = samples.len();
        let fits = given.min(self.samples.slots());
        let taken = match self.samples.write_chunk_uninit(fits) {
            Ok(room) => room.fill_from_iter(samples),
            Err(ChunkError::TooFewSlots(_)) => 0,
        };
        let Signal(shared) = &self.signal;
        shared.dropped.fetch_add((given - taken) as u64, Relaxed);
        shared.receiver.unpark();
    }
}

/// Tells the receiver what is no sample.
#[derive(Clone)]
pub struct Signal(Arc<Shared>);

impl Signal {
    /// The device lost samples, it does not say how many.
    pub fn overrun(&self) {
        self.0.overruns.fetch_add(1, Relaxed);
    }

    /// The device can no longer be heard, for this reason.
    pub fn fail(&self, why: String) {
        self.end(End::Failed(why));
    }

    /// The stream is to end now. Whether this is news.
    pub fn stop(&self) -> bool {
        self.end(End::Stopped)
    }

    fn end(&self, end: End) -> bool {
        let news = self.0.end.set(end).is_ok();
        self.0.receiver.unpark();
        news
    }
}

/// The end of the network.
pub struct Receiver {
    samples: Consumer<f32>,
    shared: Arc<Shared>,
    rate: u32,
    losses: Losses,
}

impl Receiver {
    /// For whoever has to tell this end something.
    pub fn signal(&self) -> Signal {
        Signal(self.shared.clone())
    }

    /// Hands on all samples as they come, and says what was lost on the way, until somebody stops it.
    ///
    /// # Errors
    /// When the device fails, after what it gave before; when it gives nothing for as long as `patience`; when `body`
    /// fails.
    pub fn each(
        mut self,
        patience: Duration,
        mut say: impl FnMut(&str),
        mut body: impl FnMut(&[f32]) -> Result<()>,
    ) -> Result<()> {
        let ended = self.listen(patience, &mut say, &mut body);
        self.losses.tell(&self.shared, self.rate, true, &mut say);
        ended
    }

    fn listen(
        &mut self,
        patience: Duration,
        say: &mut impl FnMut(&str),
        body: &mut impl FnMut(&[f32]) -> Result<()>,
    ) -> Result<()> {
        let piece = (self.rate / 10) as usize;
        let mut heard = Instant::now();
        loop {
            // Looked at before the queue, so that all that came before a failure is in it.
            let end = self.shared.end.get();
            if let Some(End::Stopped) = end {
                return Ok(());
            }
            let waiting = self.samples.slots();
            let taken = if end.is_some() { waiting } else { waiting.min(piece) };
            if let Ok(chunk) = self.samples.read_chunk(taken) {
                let (first, second) = chunk.as_slices();
                for samples in [first, second].into_iter().filter(|samples| !samples.is_empty()) {
                    body(samples)?;
                }
                chunk.commit_all();
            }
            self.losses.tell(&self.shared, self.rate, false, say);
            if let Some(End::Failed(why)) = end {
                bail!("{why}");
            }
            if taken > 0 {
                heard = Instant::now();
                continue;
            }
            ensure!(
                heard.elapsed() < patience,
                "it gave no samples for {} s, is it still connected?",
                patience.as_secs_f32()
            );
            thread::park_timeout(PAUSE.min(patience));
        }
    }
}

/// What was lost, and not said yet.
#[derive(Default)]
struct Losses {
    dropped: u64,
    overruns: u64,
    /// When something was last said.
    said: Option<Instant>,
}

impl Losses {
    /// Says what was lost, at most once a second unless it must be `now`.
    fn tell(&mut self, shared: &Shared, rate: u32, now: bool, say: &mut impl FnMut(&str)) {
        self.dropped += shared.dropped.swap(0, Relaxed);
        self.overruns += shared.overruns.swap(0, Relaxed);
        let early = self.said.is_some_and(|said| said.elapsed() < BETWEEN_WARNINGS);
        if (self.dropped == 0 && self.overruns == 0) || (early && !now) {
            return;
        }
        if self.dropped > 0 {
            let seconds = self.dropped as f64 / f64::from(rate);
            say(&format!(
                "warning: {} samples ({seconds:.3} s) were dropped, this machine is too slow: a longer --hop helps",
                self.dropped
            ));
        }
        if self.overruns > 0 {
            say(&format!(
                "warning: the device lost samples {} times, it does not say how many",
                self.overruns
            ));
        }
        *self = Self { said: Some(Instant::now()), ..Self::default() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    /// What the receiver heard and said, and how it ended.
    fn all(receiver: Receiver, patience: Duration) -> (Vec<f32>, Vec<String>, Result<()>) {
        let (mut heard, mut said) = (Vec::new(), Vec::new());
        let ended = receiver.each(
            patience,
            |line| said.push(line.into()),
            |samples| {
                heard.extend_from_slice(samples);
                Ok(())
            },
        );
        (heard, said, ended)
    }

    fn ramp(samples: std::ops::Range<u16>) -> impl ExactSizeIterator<Item = f32> {
        samples.map(f32::from)
    }

    #[test]
    fn samples_arrive_in_order_while_they_come() {
        let (mut sender, receiver) = new(1000, 100);
        let signal = receiver.signal();
        let device = thread::spawn(move || {
            for start in (0..6000).step_by(60) {
                while sender.samples.slots() < 60 {
                    thread::yield_now();
                }
                sender.push(ramp(start..start + 60));
            }
            signal.fail("it went away".into());
        });
        let (heard, said, ended) = all(receiver, PATIENCE);
        device.join().unwrap();
        assert!(heard.iter().copied().eq(ramp(0..6000)), "{} samples", heard.len());
        assert_eq!(said, Vec::<String>::new());
        assert_eq!(ended.unwrap_err().to_string(), "it went away");
    }

    #[test]
    fn what_finds_no_room_is_dropped_and_said() {
        let (mut sender, receiver) = new(100, 1000);
        for start in [0, 40, 80, 120] {
            sender.push(ramp(start..start + 40));
        }
        receiver.signal().fail("it went away".into());
        let (heard, said, _) = all(receiver, PATIENCE);
        assert!(heard.iter().copied().eq(ramp(0..100)), "{heard:?}");
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(said[0].starts_with("warning: 60 samples (0.060 s) were dropped"), "{said:?}");
    }

    #[test]
    fn losses_are_said_once_a_second_and_at_the_end() {
        // Heard in pieces of 5 samples.
        let (mut sender, receiver) = new(10, 50);
        let signal = receiver.signal();
        let (mut said, mut pieces) = (Vec::new(), 0);
        sender.push(ramp(0..11));
        let ended = receiver.each(
            Duration::from_millis(50),
            |line| {
                if said.is_empty() {
                    // There is room for 5.
                    sender.push(ramp(0..12));
                }
                said.push(line.to_owned());
            },
            |_| {
                pieces += 1;
                if pieces > 1 {
                    signal.overrun();
                }
                Ok(())
            },
        );
        ended.unwrap_err();
        let starts = [
            "warning: 1 samples",
            "warning: 7 samples",
            "warning: the device lost samples 2 times",
        ];
        assert_eq!((pieces, said.len()), (3, starts.len()), "{said:?}");
        for (line, start) in said.iter().zip(starts) {
            assert!(line.starts_with(start), "{said:?}");
        }
    }

    #[test]
    fn gaps_of_the_device_are_said() {
        let (_sender, receiver) = new(100, 1000);
        receiver.signal().overrun();
        receiver.signal().overrun();
        receiver.signal().fail("it went away".into());
        let (_, said, _) = all(receiver, PATIENCE);
        assert_eq!(said, ["warning: the device lost samples 2 times, it does not say how many"]);
    }

    #[test]
    fn a_stop_is_the_end_and_no_error() {
        let (mut sender, receiver) = new(100, 1000);
        sender.push(ramp(0..50));
        let signal = receiver.signal();
        assert!(signal.stop());
        assert!(!signal.stop(), "the second is no news");
        let (heard, said, ended) = all(receiver, PATIENCE);
        ended.unwrap();
        assert_eq!((heard, said), (vec![], vec![]));
    }

    #[test]
    fn a_stop_wakes_the_receiver() {
        let (_sender, receiver) = new(100, 1000);
        let signal = receiver.signal();
        let person = thread::spawn(move || {
            thread::sleep(Duration::from_millis(20));
            signal.stop()
        });
        let (.., ended) = all(receiver, PATIENCE);
        ended.unwrap();
        assert!(person.join().unwrap());
    }

    #[test]
    fn a_device_that_says_nothing_is_an_error() {
        let (mut sender, receiver) = new(100, 1000);
        sender.push(ramp(0..50));
        let (heard, _, ended) = all(receiver, Duration::from_millis(50));
        assert_eq!(heard.len(), 50);
        let message = ended.unwrap_err().to_string();
        assert_eq!(message, "it gave no samples for 0.05 s, is it still connected?");
    }

    #[test]
    fn an_error_of_the_network_ends_the_stream() {
        let (mut sender, receiver) = new(100, 1000);
        sender.push(ramp(0..1));
        let ended = receiver.each(PATIENCE, |_| (), |_| bail!("the network failed"));
        assert_eq!(ended.unwrap_err().to_string(), "the network failed");
    }
}
