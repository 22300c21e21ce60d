// Says what a model of `ssamba-edge export --frontend waveform` hears in a WAV file: 16 kHz, mono, 16 bits.
// Usage: node node.mjs MODEL.onnx CLIP.wav
import { readFileSync } from "node:fs";
import * as ort from "onnxruntime-web";
import { readWaveformCard } from "./card.js";

const [model, wav] = process.argv.slice(2).map((path) => new Uint8Array(readFileSync(path)));
const { labels } = readWaveformCard(model);
const session = await ort.InferenceSession.create(model);
const samples = Float32Array.from(new Int16Array(wav.slice(44, wav.length & ~1).buffer), (sample) => sample / 32768);
const { scores } = await session.run({ waveform: new ort.Tensor(samples, [1, samples.length]) });
const best = scores.data.indexOf(Math.max(...scores.data));
console.log(labels[best], scores.data[best].toFixed(3));
