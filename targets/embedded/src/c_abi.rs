//! The C ABI of `include/ssamba_kws.h`, which says what callers promise.
//!
//! No panic crosses it: one inside becomes an error, and the spotter then refuses to go on. That
//! takes `panic = "unwind"`; with `"abort"` a panic ends the process.

use std::{
    collections::VecDeque,
    ffi::{CStr, CString, c_char, c_int},
    panic::{AssertUnwindSafe, catch_unwind},
    slice,
};

use anyhow::{Context, Result};

use crate::{Changes, Settings, Spotter};

const OK: c_int = 0;
const EVENT: c_int = 1;
const DIFFERS: c_int = 2;
const ARGUMENT: c_int = -1;
const FAILED: c_int = -2;

/// Events that wait for `poll`; beyond, the oldest is dropped.
const WAITING: usize = 64;

/// `ssamba_kws`: a spotter and what C needs to talk to it.
struct Handle {
    spotter: Spotter,
    /// By class; events point into them.
    labels: Vec<CString>,
    waiting: VecDeque<Waiting>,
    /// A panic left the spotter in an unknown state.
    broken: bool,
}

struct Waiting {
    class: usize,
    score: f32,
    time_s: f64,
}

// The header lets a handle move between threads.
const _: fn() = || {
    fn is_send<T: Send>() {}
    is_send::<Handle>();
};

/// `ssamba_kws_settings`; 0 means the default of the model.
#[repr(C)]
#[derive(Clone, Copy)]
struct RawSettings {
    hop_ms: u32,
    window_ms: u32,
    smooth: u32,
    refractory_ms: u32,
    threshold: f32,
}

/// `ssamba_kws_event`.
#[repr(C)]
struct RawEvent {
    label: *const c_char,
    score: f32,
    time_s: f64,
}

impl RawSettings {
    fn changes(self) -> Changes {
        let set = |value: u32| (value != 0).then_some(value);
        Changes {
            hop_ms: set(self.hop_ms),
            window_ms: set(self.window_ms),
            smooth: set(self.smooth).map(|windows| windows as usize),
            refractory_ms: set(self.refractory_ms),
            threshold: (self.threshold != 0.0).then_some(self.threshold),
            ..Changes::default()
        }
    }
}

impl Handle {
    fn open(model: &CStr, changes: &Changes) -> Result<Self> {
        let model = model.to_str().context("the path of the model is not UTF-8")?;
        let spotter = Spotter::open(model, &changes.of(Settings::of(model)?))?;
        let labels = spotter
            .labels()
            .iter()
            .map(|label| CString::new(label.replace('\0', " ")))
            .collect::<Result<_, _>>()?;
        Ok(Self { spotter, labels, waiting: VecDeque::with_capacity(WAITING), broken: false })
    }

    fn feed(&mut self, samples: &[i16]) -> Result<()> {
        let waiting = &mut self.waiting;
        self.spotter.feed_i16(samples, |event| {
            if waiting.len() == WAITING {
                waiting.pop_front();
            }
            let (class, score, time_s) = (event.class, event.score, event.time_s);
            waiting.push_back(Waiting { class, score, time_s });
        })
    }

    /// The oldest event that waits; its label lives as long as the handle.
    fn poll(&mut self) -> Option<RawEvent> {
        let Waiting { class, score, time_s } = self.waiting.pop_front()?;
        Some(RawEvent { label: self.labels.get(class)?.as_ptr(), score, time_s })
    }

    /// Runs `body` on a handle that no panic has broken.
    fn guarded(&mut self, body: impl FnOnce(&mut Self) -> Result<c_int>) -> c_int {
        if self.broken {
            return FAILED;
        }
        match catch_unwind(AssertUnwindSafe(|| body(self))) {
            Ok(Ok(code)) => code,
            Ok(Err(_)) => FAILED,
            Err(_) => {
                self.broken = true;
                FAILED
            }
        }
    }
}

#[expect(unsafe_code, reason = "a function for C, which hands in raw pointers")]
#[unsafe(no_mangle)]
unsafe extern "C" fn ssamba_kws_open(
    model: *const c_char,
    settings: *const RawSettings,
    error: *mut c_char,
    error_size: usize,
) -> *mut Handle {
    let opened = catch_unwind(|| {
        if model.is_null() {
            anyhow::bail!("the path of the model is NULL");
        }
        // SAFETY: not null, and the caller promises a string that ends with NUL.
        let model = unsafe { CStr::from_ptr(model) };
        // SAFETY: null, or by the caller's promise settings of this layout.
        let settings = unsafe { settings.as_ref() };
        Handle::open(model, &settings.map_or_else(Changes::default, |raw| raw.changes()))
    });
    let text = match opened {
        Ok(Ok(handle)) => return Box::into_raw(Box::new(handle)),
        Ok(Err(error)) => format!("{error:#}"),
        Err(_) => "the model could not be opened: a fault of the library".into(),
    };
    if !error.is_null() && error_size > 0 {
        let end = text.floor_char_boundary(error_size - 1);
        // SAFETY: not null, and the caller promises room for `error_size` bytes: `end` of them are
        // text, one is the NUL.
        unsafe {
            error.copy_from_nonoverlapping(text.as_ptr().cast(), end);
            error.add(end).write(0);
        }
    }
    std::ptr::null_mut()
}

#[expect(unsafe_code, reason = "a function for C, which hands in raw pointers")]
#[unsafe(no_mangle)]
unsafe extern "C" fn ssamba_kws_feed(kws: *mut Handle, samples: *const i16, count: usize) -> c_int {
    // SAFETY: null, or from `ssamba_kws_open`, not closed, and by the caller's promise used by one
    // thread at a time.
    let Some(handle) = (unsafe { kws.as_mut() }) else { return ARGUMENT };
    if count == 0 {
        return OK;
    }
    if samples.is_null() || !samples.is_aligned() || count > isize::MAX as usize / size_of::<i16>()
    {
        return ARGUMENT;
    }
    // SAFETY: not null, aligned, of a length that fits, and the caller promises `count` samples.
    let samples = unsafe { slice::from_raw_parts(samples, count) };
    handle.guarded(|handle| handle.feed(samples).map(|()| OK))
}

#[expect(unsafe_code, reason = "a function for C, which hands in raw pointers")]
#[unsafe(no_mangle)]
unsafe extern "C" fn ssamba_kws_poll(kws: *mut Handle, event: *mut RawEvent) -> c_int {
    // SAFETY: null, or from `ssamba_kws_open`, not closed, and by the caller's promise used by one
    // thread at a time.
    let Some(handle) = (unsafe { kws.as_mut() }) else { return ARGUMENT };
    if event.is_null() || !event.is_aligned() {
        return ARGUMENT;
    }
    handle.guarded(|handle| {
        let Some(waiting) = handle.poll() else { return Ok(OK) };
        // SAFETY: not null, aligned, and the caller promises room for an event.
        unsafe { event.write(waiting) };
        Ok(EVENT)
    })
}

#[expect(unsafe_code, reason = "a function for C, which hands in raw pointers")]
#[unsafe(no_mangle)]
unsafe extern "C" fn ssamba_kws_reset(kws: *mut Handle) -> c_int {
    // SAFETY: null, or from `ssamba_kws_open`, not closed, and by the caller's promise used by one
    // thread at a time.
    let Some(handle) = (unsafe { kws.as_mut() }) else { return ARGUMENT };
    handle.guarded(|handle| {
        handle.spotter.reset();
        handle.waiting.clear();
        Ok(OK)
    })
}

#[expect(unsafe_code, reason = "a function for C, which hands in raw pointers")]
#[unsafe(no_mangle)]
unsafe extern "C" fn ssamba_kws_selftest(kws: *mut Handle, max_abs_error: *mut f32) -> c_int {
    // SAFETY: null, or from `ssamba_kws_open`, not closed, and by the caller's promise used by one
    // thread at a time.
    let Some(handle) = (unsafe { kws.as_mut() }) else { return ARGUMENT };
    if !max_abs_error.is_null() && !max_abs_error.is_aligned() {
        return ARGUMENT;
    }
    handle.guarded(|handle| {
        let verdict = handle.spotter.self_test()?;
        if !max_abs_error.is_null() {
            // SAFETY: not null, aligned, and the caller promises room for a number.
            unsafe { max_abs_error.write(verdict.max_abs_error) };
        }
        Ok(if verdict.holds { OK } else { DIFFERS })
    })
}

#[expect(unsafe_code, reason = "a function for C, which hands in raw pointers")]
#[unsafe(no_mangle)]
unsafe extern "C" fn ssamba_kws_close(kws: *mut Handle) {
    if !kws.is_null() {
        // SAFETY: not null, made by `Box::into_raw` in `ssamba_kws_open`, and by the caller's
        // promise closed once.
        let handle = unsafe { Box::from_raw(kws) };
        // What a panic of a destructor leaves behind is lost, not unsafe.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(handle)));
    }
}
