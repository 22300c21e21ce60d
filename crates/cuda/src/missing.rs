//! Shared libraries that are not there, as an error that a caller can act on.

use std::fmt;

/// A shared library that a provider needs and the system does not find.
///
/// It is the cause of an error, whatever was said around it: `error.downcast_ref::<MissingLibrary>()`
/// finds it. What the loaders of other systems than Linux say of a library is left in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingLibrary {
    /// The library, as it is asked for, such as `libnvinfer.so.10`.
    pub library: String,
    /// What needs it: the file of another library, or a provider.
    pub needed_by: String,
    /// Where it comes from, for people.
    pub get: &'static str,
}

impl MissingLibrary {
    /// Of a library whose name says where it comes from.
    pub fn new(library: impl Into<String>, needed_by: impl Into<String>) -> Self {
        let library = library.into();
        Self { get: source(&library), library, needed_by: needed_by.into() }
    }

    /// What the system's loader says when it does not find the library that it was to open, or one
    /// that this one needs.
    pub fn from_loader(message: &str, needed_by: &str) -> Option<Self> {
        let (library, _) = message.split_once(": cannot open shared object file: No such file")?;
        Some(Self::new(library, needed_by))
    }
}

impl std::error::Error for MissingLibrary {}

impl fmt::Display for MissingLibrary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { library, needed_by, get } = self;
        write!(f, "`{library}` is missing, which {needed_by} needs: {get}")
    }
}

/// Where libraries come from, by what their names begin with after `lib`.
const SOURCES: [(&[&str], &str); 5] = [
    (
        &["onnxruntime_providers_"],
        "ONNX Runtime's packages for GPUs have it: python3 -m pip install onnxruntime-gpu",
    ),
    (
        &["nvinfer", "nvonnxparser"],
        "it is part of NVIDIA TensorRT, of the major version in its name, and its folder must be \
         one where the system looks for libraries, such as those in LD_LIBRARY_PATH",
    ),
    (
        &["cudnn"],
        "it is part of NVIDIA cuDNN, of the major version in its name, and its folder must be one \
         where the system looks for libraries, such as those in LD_LIBRARY_PATH",
    ),
    (&["cuda.so", "nvcuda"], "it comes with NVIDIA's driver"),
    (
        &["cublas", "cudart", "cufft", "curand", "cusparse", "cusolver", "nvJitLink", "nvrtc"],
        "it comes with the CUDA toolkit, and its folder must be one where the system looks for \
         libraries, such as those in LD_LIBRARY_PATH",
    ),
];

fn source(library: &str) -> &'static str {
    let name = library.rsplit(['/', '\\']).next().unwrap_or(library);
    let name = name.strip_prefix("lib").unwrap_or(name);
    SOURCES
        .iter()
        .find(|(beginnings, _)| beginnings.iter().any(|beginning| name.starts_with(beginning)))
        .map_or("its folder must be one where the system looks for libraries", |(_, source)| source)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_library_has_its_source() {
        for (library, word) in [
            ("libnvinfer.so.10", "TensorRT"),
            ("/opt/lib/libnvonnxparser.so.10", "TensorRT"),
            ("nvinfer_10.dll", "TensorRT"),
            ("libcublasLt.so.13", "CUDA toolkit"),
            ("libcudart.so.13", "CUDA toolkit"),
            ("libcudnn.so.9", "cuDNN"),
            ("libcuda.so.1", "driver"),
            ("libonnxruntime_providers_tensorrt.so", "onnxruntime-gpu"),
        ] {
            let sentence = MissingLibrary::new(library, "a provider").to_string();
            let start = format!("`{library}` is missing, which a provider needs: ");
            assert!(sentence.starts_with(&start) && sentence.contains(word), "{sentence}");
        }
        assert!(source("libother.so.1").contains("looks for libraries"));
    }

    #[test]
    fn other_words_of_the_loader_are_no_missing_library() {
        let missing = "libnvinfer.so.10: cannot open shared object file: No such file or directory";
        let error = MissingLibrary::from_loader(missing, "`p`").unwrap();
        assert_eq!((&*error.library, &*error.needed_by), ("libnvinfer.so.10", "`p`"));
        for other in ["libnvinfer.so.10: file too short", "", "no"] {
            assert_eq!(MissingLibrary::from_loader(other, "`p`"), None);
        }
    }
}
