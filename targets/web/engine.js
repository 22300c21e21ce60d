// The model, in a worker, so that the page never waits for it. Requests are `{ id, model }`, the bytes of a file, and
// `{ id, waveform }`, samples at the model's rate; answers `{ id, card }`, `{ id, scores, ms }` or `{ id, problem }`.
import * as ort from "./ort/ort.wasm.min.mjs";
import { readWaveformCard } from "./card.js";

// More need headers that make the page cross-origin isolated, which not every server sends.
ort.env.wasm.numThreads = 1;
ort.env.logLevel = "error";

let session;

async function open(bytes) {
  const card = readWaveformCard(bytes);
  const opened = await ort.InferenceSession.create(bytes);
  // The first run compiles and allocates: not one to be shown as latency.
  await opened.run(input(new Float32Array(card.window)));
  await session?.release();
  session = opened;
  return { card: { ...card, bytes: bytes.length, runtime: `onnxruntime-web ${ort.env.versions.web}` } };
}

const input = (waveform) => ({ waveform: new ort.Tensor(waveform, [1, waveform.length]) });

async function run(waveform) {
  const start = performance.now();
  const { scores } = await session.run(input(waveform));
  return { scores: scores.data, ms: performance.now() - start };
}

// One request after the other: a session runs one clip at a time.
let last = Promise.resolve();
onmessage = ({ data: { id, model, waveform } }) => {
  last = last.then(async () => {
    try {
      postMessage({ id, ...(model ? await open(model) : await run(waveform)) });
    } catch (error) {
      postMessage({ id, problem: String(error.message ?? error) });
    }
  });
};
