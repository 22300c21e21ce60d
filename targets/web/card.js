// What a file of `ssamba-edge export` says of itself. ONNX Runtime does not tell it in JavaScript, so it is read from
// the file: `metadata_props`, field 14 of ONNX's `ModelProto`, whose entries are pairs of strings.

const METADATA_PROPS = 14;
const FRAME_S = 0.025;
const SHIFT_S = 0.01;

/** The fields of a protobuf message that hold bytes, as [number, bytes]; others are skipped. */
function* fields(bytes) {
  let at = 0;
  const varint = () => {
    let value = 0;
    for (let scale = 1; ; scale *= 128) {
      if (at >= bytes.length || scale > 2 ** 56) throw new Error("not an ONNX file");
      const byte = bytes[at++];
      value += (byte % 128) * scale;
      if (byte < 128) return value;
    }
  };
  while (at < bytes.length) {
    const tag = varint();
    const skip = { 1: 8, 5: 4 }[tag % 8];
    if (skip) at += skip;
    else if (tag % 8 === 0) varint();
    else if (tag % 8 === 2) {
      const length = varint();
      if (at + length > bytes.length) throw new Error("the file is cut short");
      yield [Math.floor(tag / 8), bytes.subarray(at, at + length)];
      at += length;
    } else throw new Error("not an ONNX file");
  }
}

/**
 * The card of a file, `bytes` being all of it: name, labels, sample rate in Hz, samples of the window that fills the
 * model, and what the file takes, "fbank" or "waveform". Throws an Error whose message is for people.
 */
export function readCard(bytes) {
  const text = new TextDecoder();
  const entries = new Map();
  for (const [number, entry] of fields(bytes)) {
    if (number !== METADATA_PROPS) continue;
    const pair = new Map([...fields(entry)].map(([field, value]) => [field, text.decode(value)]));
    entries.set(pair.get(1), pair.get(2) ?? "");
  }
  const card = (key) => entries.get(`ssamba.${key}`);
  if (card("card") === undefined) throw new Error("the file was not written by `ssamba-edge export`");
  if (card("card") !== "1") throw new Error(`the file has a card of version ${card("card")}, expected 1`);
  const sampleRate = Number(card("sample_rate"));
  const frames = Number(card("n_frames"));
  return {
    name: card("name"),
    labels: JSON.parse(card("labels")),
    input: card("input") ?? "fbank",
    sampleRate,
    window: Math.round(sampleRate * (FRAME_S + (frames - 1) * SHIFT_S)),
  };
}

/** As `readCard`, for a program that has a waveform and wants scores. */
export function readWaveformCard(bytes) {
  const card = readCard(bytes);
  if (card.input !== "waveform") {
    throw new Error("the file takes filter banks: export it again with --frontend waveform");
  }
  if (card.labels.length === 0) throw new Error("the file has no labels: it is not a classifier");
  return card;
}
