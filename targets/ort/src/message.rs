//! ONNX Runtime's messages, for people.

use anyhow::anyhow;
use ort::ErrorCode;

use ssamba_cuda::MissingLibrary;

/// What an error says, among others, when there was too little memory, on the CPU or a device.
pub const OUT_OF_MEMORY: &str = "out of memory";

/// An error of `ort` whose message is one line, without the places in ONNX Runtime's source; a
/// library that it did not find is a [`MissingLibrary`].
pub(crate) fn readable<R>(error: ort::Error<R>) -> anyhow::Error {
    if matches!(error.code(), ErrorCode::InvalidProtobuf) {
        return anyhow!("it is not an ONNX model");
    }
    let line = shorten(&error.to_string());
    match missing_library(&line) {
        Some(missing) => missing.into(),
        None => anyhow!("{line}"),
    }
}

/// Drops stack traces, codes, the file, line and signature that ONNX Runtime puts before a failed
/// check, and what it says around the messages of our kernels and of the system's loader.
fn shorten(message: &str) -> String {
    let message = message.split("Stacktrace:").next().unwrap_or_default();
    let words: Vec<&str> = message.split_whitespace().collect();
    let mut line = words.join(" ");
    while let Some(place) = place(&line) {
        line.replace_range(place, "");
    }
    let line = line.trim().trim_end_matches('.');
    let line = line.strip_prefix("Exception during initialization: ").unwrap_or(line);
    let line = match line.strip_prefix("[ONNXRuntimeError] : ") {
        // The number of the code, and its name.
        Some(coded) => coded.splitn(3, " : ").nth(2).unwrap_or(coded),
        None => line,
    };
    let failed = line
        .strip_prefix("Non-zero status code returned while running ")
        .and_then(|line| line.split_once(" node. Name:'"))
        .and_then(|(_, line)| line.split_once("' Status Message: "));
    match failed {
        Some((node, reason)) => {
            format!("node `{node}`: {}", out_of_memory(reason).unwrap_or_else(|| reason.into()))
        }
        None => out_of_memory(line).unwrap_or_else(|| line.into()),
    }
}

/// One sentence for the ways in which ONNX Runtime, its arenas and CUDA say that memory ran out.
fn out_of_memory(line: &str) -> Option<String> {
    const BUFFER: &str = "Failed to allocate memory for requested buffer of size ";
    if let Some((_, size)) = line.split_once(BUFFER) {
        let digits = size.find(|c: char| !c.is_ascii_digit()).unwrap_or(size.len());
        let size: f64 = size[..digits].parse().ok()?;
        let mib = size / f64::from(1 << 20);
        return Some(format!("{OUT_OF_MEMORY}, {mib:.1} MiB more were asked for"));
    }
    ["out of memory", "bad_alloc", "bad allocation"]
        .into_iter()
        .any(|words| line.contains(words))
        .then(|| OUT_OF_MEMORY.into())
}

/// The library that the loader did not find when it opened one of ONNX Runtime's.
fn missing_library(line: &str) -> Option<MissingLibrary> {
    let (library, reason) =
        line.strip_prefix("Failed to load library ")?.split_once(" with error: ")?;
    MissingLibrary::from_loader(reason, &format!("`{library}`"))
}

/// The range of `/a/path.cc:123 type function(arguments) const `, when something follows it.
fn place(line: &str) -> Option<std::ops::Range<usize>> {
    let extension = [".cc:", ".h:", ".cpp:"].into_iter().filter_map(|ext| line.find(ext)).min()?;
    let start = line[..extension].rfind(' ').map_or(0, |space| space + 1);
    let open = extension + line[extension..].find('(')?;
    let mut depth = 0;
    let close = line[open..].char_indices().find_map(|(index, character)| {
        depth += match character {
            '(' => 1,
            ')' => -1,
            _ => 0,
        };
        (depth == 0).then_some(open + index + 1)
    })?;
    let rest = line[close..].trim_start();
    let rest = rest.strip_prefix("const ").unwrap_or(rest);
    // `[with T = float]` ends a signature of a template.
    let rest = match rest.strip_prefix("[with ") {
        Some(template) => template.split_once(']').map_or(rest, |(_, rest)| rest.trim_start()),
        None => rest,
    };
    (!rest.is_empty()).then(|| start..line.len() - rest.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_check_keeps_its_sentence_alone() {
        let message = "Exception during initialization: /onnxruntime_src/core/graph/model.cc:182 \
                       onnxruntime::Model::Model(onnx::ModelProto&&, const PathString&) const \
                       Unsupported model IR version: 99, max supported IR version: 13\nStacktrace:\n0x1";
        assert_eq!(
            shorten(message),
            "Unsupported model IR version: 99, max supported IR version: 13"
        );
    }

    #[test]
    fn a_failed_node_is_named_before_its_reason() {
        let message = "Non-zero status code returned while running SelectiveScan node. Name:'scan' \
                       Status Message: operand `Cm` has shape [2]";
        assert_eq!(shorten(message), "node `scan`: operand `Cm` has shape [2]");
    }

    #[test]
    fn a_library_that_is_missing_is_a_typed_error() {
        let failed = |reason: &str| {
            let line = format!(
                "[ONNXRuntimeError] : 1 : FAIL : Failed to load library /a/libprovider.so with \
                 error: {reason}"
            );
            readable(ort::Error::new(line))
        };
        for library in ["libcublasLt.so.13", "libnvinfer.so.10"] {
            let reason =
                format!("{library}: cannot open shared object file: No such file or directory");
            let error = failed(&reason).context("cannot open `a.onnx`");
            let expected = MissingLibrary::new(library, "`/a/libprovider.so`");
            assert_eq!(error.downcast_ref::<MissingLibrary>(), Some(&expected));
        }
        let other = failed("it is too short");
        assert!(other.downcast_ref::<MissingLibrary>().is_none());
        let line = "Failed to load library /a/libprovider.so with error: it is too short";
        assert_eq!(other.to_string(), line);
    }

    #[test]
    fn too_little_memory_is_one_sentence() {
        let message = "Non-zero status code returned while running Softmax node. \
                       Name:'block0/attn/Softmax' Status Message: \
                       /onnxruntime_src/onnxruntime/core/framework/bfc_arena.cc:376 void* \
                       onnxruntime::BFCArena::AllocateRawInternal(size_t, bool) Failed to allocate \
                       memory for requested buffer of size 3221225472\n";
        assert_eq!(
            shorten(message),
            "node `block0/attn/Softmax`: out of memory, 3072.0 MiB more were asked for"
        );
        let cuda = "CUDA failure 2: out of memory ; GPU=0 ; hostname=a ; file=/b.cc ; line=99";
        assert_eq!(shorten(cuda), "out of memory");
        assert_eq!(shorten("std::bad_alloc"), "out of memory");
    }

    #[test]
    fn a_plain_message_stays_as_it_is() {
        for message in
            ["", "no", "Load model from a.onnx failed:Protobuf parsing failed", "a.cc: x"]
        {
            assert_eq!(shorten(message), message);
        }
    }
}
