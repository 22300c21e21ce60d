//! The README of a bundle.

use ssamba_contract::{Card, Input, Precision};

use super::{
    CARD, LABELS, MODEL, PACK, THRESHOLDS,
    archive::SUMS,
    golden::{EXPECTED, Golden},
    triton,
};
use crate::targets::Target;

/// What is in the bundle, how its target loads it, and how to see that it works.
pub fn readme(target: Target, card: &Card, golden: &Golden, library: Option<&str>) -> String {
    let Card { name, front_end, .. } = card;
    let (rate, seconds) = (front_end.sample_rate, front_end.window_seconds());
    let takes = match card.input {
        _ if target == Target::Embedded => {
            format!(
                "a stream of 16-bit samples at {rate} Hz, and puts out a line of JSON for each word."
            )
        }
        Input::Waveform => format!(
            "`waveform`, `[batch, samples]`: one channel at {rate} Hz between -1 and 1; the first {seconds:.2} s are \
             heard, and what is missing is padded. It puts out `logits` and `scores`."
        ),
        Input::Fbank => format!(
            "`{}`, `{}`: normalised log-mel filter banks of {seconds:.2} s at {rate} Hz, as {CARD} tells. It puts out \
             `logits`.",
            card.input_name(),
            card.input_shape()
        ),
    };
    let precision = match card.precision {
        Precision::F32 => "single",
        Precision::F16 => "half",
        Precision::I8 => "eight-bit",
    };
    let model = match target {
        Target::Embedded => format!("`{PACK}/`, a folder for `ssamba-kws`"),
        Target::Triton => format!("`{}`, in a model repository", triton::Model::model_path(card)),
        _ => format!("`{MODEL}`, in {precision} precision"),
    };
    let best = match golden.expected.top.first() {
        Some(best) => format!(": `{}` with a score of {:.3}", best.label, best.score),
        None => String::new(),
    };
    let library = library.map(|library| format!("lib/{library}"));
    let lib_row = match &library {
        Some(library) => {
            format!(
                "| `{library}` | our operators for ONNX Runtime; without them the model runs, slower |\n"
            )
        }
        None => String::new(),
    };
    format!(
        "# {name} for `{}`\n\n{}\n\nIt takes {takes}\n\n{}\n\n| | |\n|---|---|\n| {model} | the model |\n\
         | `{LABELS}` | its {} labels, one a line in the order of the scores |\n\
         | `{CARD}` | what it says of itself: front end, labels, checkpoint |\n\
         | `{THRESHOLDS}` | from which score on a label counts |\n\
         | `{}` | a clip |\n| `{EXPECTED}` | what the reference gives for it{best} |\n{lib_row}\
         | `licenses/` | of the model |\n| `{SUMS}` | of every file: `sha256sum --check {SUMS}` |\n\n\
         `ssamba-edge bundle --verify` on the folder or tar file checks the sums, runs the clip and compares.\n",
        target.name(),
        match card.self_test {
            Some(_) =>
                "Written by `ssamba-edge bundle`; the model carries a self-test as well (`ssamba-edge run --selftest`).",
            None => "Written by `ssamba-edge bundle`.",
        },
        load(target, card, library.as_deref()),
        card.labels.len(),
        golden.clip_name,
    )
}

fn fence(language: &str, code: &str) -> String {
    format!("```{language}\n{code}\n```")
}

/// How the target loads it.
fn load(target: Target, card: &Card, library: Option<&str>) -> String {
    let register = |line: &str| match library {
        Some(library) => line.replace("{}", library) + "\n",
        None => String::new(),
    };
    match target {
        Target::OrtCpu => fence(
            "python",
            &format!(
                "options = onnxruntime.SessionOptions()\n{}session = onnxruntime.InferenceSession(\"{MODEL}\", options)\n\
                 logits, scores = session.run([\"logits\", \"scores\"], {{\"waveform\": samples[None]}})",
                register("options.register_custom_ops_library(\"{}\")")
            ),
        ),
        Target::OrtCuda => {
            fence("sh", &format!("ssamba-edge run {MODEL} clip.wav --provider cuda"))
        }
        Target::TensorRt => fence(
            "sh",
            &format!(
                "trtexec --onnx={MODEL} --shapes={}:1x{}x{}    # not run by us",
                card.input_name(),
                card.front_end.n_frames,
                card.front_end.n_mels
            ),
        ),
        Target::Tract => fence(
            "rust",
            &format!(
                "let model = tract_onnx::onnx()\n    .model_for_path(\"{MODEL}\")?\n    \
                 .with_input_fact(0, f32::fact([1, {}]).into())?\n    .into_optimized()?\n    .into_runnable()?;",
                card.front_end.window_samples()
            ),
        ),
        Target::WebWasm | Target::WebWebgpu => {
            let provider = if target == Target::WebWasm { "wasm" } else { "webgpu" };
            fence(
                "js",
                &format!(
                    "const session = await ort.InferenceSession.create(\"{MODEL}\", {{ executionProviders: [\"{provider}\"] }});\n\
                     const waveform = new ort.Tensor(\"float32\", samples, [1, samples.length]);\n\
                     const {{ logits, scores }} = await session.run({{ waveform }});"
                ),
            )
        }
        Target::Android => fence(
            "kotlin",
            &format!(
                "val options = OrtSession.SessionOptions()\n{}val session = environment.createSession(bytes, options)    \
                 // not run by us",
                register("options.registerCustomOpLibrary(\"{}\")")
            ),
        ),
        Target::Ios => fence(
            "swift",
            &format!(
                "let session = try ORTSession(env: environment, modelPath: path, sessionOptions: options)    // {MODEL}; \
                 not run by us"
            ),
        ),
        Target::Triton => {
            let prefix = if library.is_some() { "LD_LIBRARY_PATH=$PWD/lib " } else { "" };
            fence(
                "sh",
                &format!(
                    "{prefix}tritonserver --model-repository=$PWD/{}    # not run by us",
                    triton::REPOSITORY
                ),
            )
        }
        Target::Embedded => {
            fence("sh", &format!("arecord -q -t raw -f S16_LE -r 16000 -c 1 | ssamba-kws {PACK}"))
        }
    }
}
