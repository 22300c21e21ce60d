//! ONNX Runtime's TensorRT provider.
//!
//! TensorRT takes the parts of the graph that it has operators for and builds an engine of each;
//! our operators are kept from it, so that they run as kernels of the CUDA provider, which comes
//! next, and the CPU last. A file in plain operators becomes one engine.
//!
//! Building takes seconds to minutes and is done when the file is opened, since no axis is left open
//! that the options do not give a range for; engines are kept, see [`Engines`].

mod batches;
mod engines;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use ort::{
    ep::{self, ArbitrarilyConfigurableExecutionProvider, ExecutionProvider},
    session::builder::SessionBuilder,
};
use ssamba_contract::{
    Card,
    io::BATCH,
    op::{ADD_LAYER_NORM, SELECTIVE_SCAN, SHORT_CONV},
};
use ssamba_cuda::{MissingLibrary, store};

pub use batches::{Batches, BatchesError};
pub use engines::Engines;

use super::Cuda;
use crate::{Library, library, message::readable, session};
use batches::Shapes;

/// An NVIDIA GPU, through TensorRT.
#[derive(Clone, Debug, Default)]
pub struct TensorRt {
    /// The GPU, and how it runs what stays with the CUDA provider. A CUDA graph is not captured over
    /// two providers: asking for one is an error.
    pub cuda: Cuda,
    /// Whether engines may compute in half precision. From version 11 on TensorRT takes precisions
    /// from the file alone.
    pub fp16: bool,
    /// Folder that engines are kept in; `None`: `ssamba-edge` in the user's cache folder.
    pub cache: Option<PathBuf>,
    /// Clips that a run takes; `None`: as many as the file fixes, else one.
    pub batches: Option<Batches>,
    /// Whether the steps of a build are among ONNX Runtime's messages, which `ORT_LOG=verbose` shows.
    pub build_log: bool,
}

impl TensorRt {
    /// Where the engines of `model` are kept, with ONNX Runtime from `library` as in
    /// [`Options::library`](crate::Options::library); `None` where the system names no cache folder,
    /// and every session builds its own.
    ///
    /// # Errors
    /// When TensorRT, the GPU or the file cannot be used; a library that is not there is a
    /// [`MissingLibrary`].
    pub fn engines(&self, model: &Path, library: Option<&Path>) -> Result<Option<Engines>> {
        let (library, environment) = library::runtime(library)?;
        let find = || -> Result<Option<Engines>> {
            self.shapes(&session::card_of(model, &environment)?)?;
            self.find(model, &library)
        };
        find().with_context(|| format!("cannot use provider `tensorrt` of {library}"))
    }

    /// # Errors
    /// When what is asked for does not fit together, or the file.
    fn shapes(&self, card: &Card) -> Result<Shapes> {
        ensure!(
            !self.cuda.cuda_graph,
            "a CUDA graph is captured over one provider, and this one leaves nodes to CUDA"
        );
        Shapes::new(card, self.batches)
    }

    fn find(&self, model: &Path, library: &Library) -> Result<Option<Engines>> {
        if !ep::TensorRT::is_available().map_err(readable)? {
            return Err(MissingLibrary::new(engines::PROVIDER, "provider `tensorrt`").into());
        }
        let version = engines::tensorrt(library.path())?;
        let caches = self.cache.clone().or_else(store::folder);
        caches.map(|caches| Engines::new(&caches, self, model, library, version)).transpose()
    }

    /// Registers TensorRT, and CUDA after it; the CPU is always last.
    pub(super) fn register(
        &self,
        builder: SessionBuilder,
        model: &Path,
        library: &Library,
        card: impl FnOnce() -> Result<Card>,
    ) -> Result<SessionBuilder> {
        let shapes = self.shapes(&card()?)?;
        let engines = self.find(model, library)?;
        let mut provider = ep::TensorRT::default();
        for (key, value) in self.options(&shapes, engines.as_ref())? {
            provider = provider.with_arbitrary_config(key, value);
        }
        let mut builder = builder;
        if let Shapes::Fixed(batch) = shapes {
            builder = builder.with_dimension_override(BATCH, batch as i64).map_err(readable)?;
        }
        let providers = [provider.build().error_on_failure(), self.cuda.provider()?];
        builder.with_execution_providers(providers).map_err(readable)
    }

    /// What ONNX Runtime is told, by the names of its documentation:
    /// <https://onnxruntime.ai/docs/execution-providers/TensorRT-ExecutionProvider.html>.
    fn options(
        &self,
        shapes: &Shapes,
        engines: Option<&Engines>,
    ) -> Result<Vec<(&'static str, String)>> {
        // ONNX Runtime's own list of what is kept from TensorRT, which this one takes the place of, is
        // of operators that no file of ours has.
        let flag = |value: bool| u8::from(value).to_string();
        let mut options = vec![
            ("device_id", self.cuda.device.to_string()),
            ("trt_op_types_to_exclude", [SELECTIVE_SCAN, SHORT_CONV, ADD_LAYER_NORM].join(",")),
            ("trt_fp16_enable", flag(self.fp16)),
            ("trt_detailed_build_log", flag(self.build_log)),
            ("trt_engine_cache_enable", flag(engines.is_some())),
            ("trt_timing_cache_enable", flag(engines.is_some())),
        ];
        if let Some(engines) = engines {
            let text = |path: &Path| {
                let text = path.to_str().map(str::to_owned);
                text.with_context(|| format!("`{}` is not UTF-8", path.display()))
            };
            options.push(("trt_engine_cache_path", text(engines.folder())?));
            options.push(("trt_timing_cache_path", text(engines.timings())?));
        }
        if let Shapes::Range { min, opt, max } = shapes {
            options.push(("trt_profile_min_shapes", min.clone()));
            options.push(("trt_profile_opt_shapes", opt.clone()));
            options.push(("trt_profile_max_shapes", max.clone()));
        }
        Ok(options)
    }

    /// Whether engines were built for a batch of this size.
    ///
    /// # Errors
    /// When they were not.
    pub(crate) fn check_batch(&self, card: &Card, batch: usize) -> Result<()> {
        let batches = self.batches.unwrap_or_default();
        ensure!(
            card.batch.is_some() || batches.contains(batch),
            "its engines are for a batch of {batches}, got {batch}: open another with other batches"
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The options of ONNX Runtime 1.31's provider, as its library
    /// `libonnxruntime_providers_tensorrt.so` spells them; those up to `trt_op_types_to_exclude` are
    /// also in `core/providers/tensorrt/tensorrt_execution_provider_info.cc` of
    /// microsoft/onnxruntime. It refuses a session with any other.
    const KNOWN: [&str; 49] = [
        "device_id",
        "has_user_compute_stream",
        "user_compute_stream",
        "trt_max_partition_iterations",
        "trt_min_subgraph_size",
        "trt_max_workspace_size",
        "trt_fp16_enable",
        "trt_int8_enable",
        "trt_int8_calibration_table_name",
        "trt_int8_use_native_calibration_table",
        "trt_dla_enable",
        "trt_dla_core",
        "trt_dump_subgraphs",
        "trt_engine_cache_enable",
        "trt_engine_cache_path",
        "trt_engine_cache_prefix",
        "trt_weight_stripped_engine_enable",
        "trt_onnx_model_folder_path",
        "trt_engine_decryption_enable",
        "trt_engine_decryption_lib_path",
        "trt_force_sequential_engine_build",
        "trt_context_memory_sharing_enable",
        "trt_layer_norm_fp32_fallback",
        "trt_timing_cache_enable",
        "trt_timing_cache_path",
        "trt_force_timing_cache",
        "trt_detailed_build_log",
        "trt_build_heuristics_enable",
        "trt_sparsity_enable",
        "trt_builder_optimization_level",
        "trt_auxiliary_streams",
        "trt_tactic_sources",
        "trt_extra_plugin_lib_paths",
        "trt_profile_min_shapes",
        "trt_profile_max_shapes",
        "trt_profile_opt_shapes",
        "trt_cuda_graph_enable",
        "trt_ep_context_embed_mode",
        "trt_ep_context_file_path",
        "trt_dump_ep_context_model",
        "trt_engine_hw_compatible",
        "trt_onnx_bytestream",
        "trt_onnx_bytestream_size",
        "trt_external_data_bytestream",
        "trt_external_data_bytestream_size",
        "trt_op_types_to_exclude",
        "trt_bf16_enable",
        "trt_load_user_initializer",
        "trt_preview_features",
    ];

    fn range() -> Shapes {
        let [min, opt, max] = ["fbank:1x98x128", "fbank:8x98x128", "fbank:32x98x128"];
        Shapes::Range { min: min.into(), opt: opt.into(), max: max.into() }
    }

    fn value(options: &[(&str, String)], key: &str) -> Option<String> {
        options.iter().find(|(name, _)| *name == key).map(|(_, value)| value.clone())
    }

    #[test]
    fn every_option_is_one_of_onnx_runtimes() {
        let all = TensorRt { fp16: true, build_log: true, ..TensorRt::default() };
        let engines = Engines::at("/c/engines", "/c/timings");
        let options = all.options(&range(), Some(&engines)).unwrap();
        assert_eq!(options.len(), 11);
        for (key, value) in &options {
            assert!(KNOWN.contains(key), "{key}");
            assert!(!value.is_empty(), "{key}");
        }
        let keys: std::collections::BTreeSet<_> = options.iter().map(|(key, _)| key).collect();
        assert_eq!(keys.len(), options.len());
    }

    #[test]
    fn our_operators_are_kept_from_tensorrt() {
        let options = TensorRt::default().options(&Shapes::AsFile, None).unwrap();
        let excluded = value(&options, "trt_op_types_to_exclude");
        assert_eq!(excluded.as_deref(), Some("SelectiveScan,ShortConv,AddLayerNorm"));
    }

    #[test]
    fn options_say_what_was_asked_for() {
        let asked = TensorRt {
            cuda: Cuda { device: 3, ..Cuda::default() },
            fp16: true,
            ..TensorRt::default()
        };
        let engines = Engines::at("/c/engines", "/c/timings");
        let options = asked.options(&range(), Some(&engines)).unwrap();
        for (key, expected) in [
            ("device_id", "3"),
            ("trt_fp16_enable", "1"),
            ("trt_detailed_build_log", "0"),
            ("trt_engine_cache_enable", "1"),
            ("trt_engine_cache_path", "/c/engines"),
            ("trt_timing_cache_enable", "1"),
            ("trt_timing_cache_path", "/c/timings"),
            ("trt_profile_min_shapes", "fbank:1x98x128"),
            ("trt_profile_opt_shapes", "fbank:8x98x128"),
            ("trt_profile_max_shapes", "fbank:32x98x128"),
        ] {
            assert_eq!(value(&options, key).as_deref(), Some(expected), "{key}");
        }
        let without = TensorRt::default().options(&Shapes::AsFile, None).unwrap();
        assert_eq!(value(&without, "trt_engine_cache_enable").as_deref(), Some("0"));
        for key in ["trt_engine_cache_path", "trt_timing_cache_path", "trt_profile_min_shapes"] {
            assert_eq!(value(&without, key), None, "{key}");
        }
    }
}
