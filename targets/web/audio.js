// Waveforms at the model's rate, from files and from the microphone. Browsers resample, with their own filters.

/** Samples of an audio file, mono at `sampleRate` Hz. */
export async function decode(file, sampleRate) {
  const bytes = await file.arrayBuffer();
  let audio;
  try {
    audio = await new OfflineAudioContext(1, 1, sampleRate).decodeAudioData(bytes);
  } catch {
    throw new Error(`“${file.name}” is not audio that this browser reads. WAV, MP3, FLAC and Ogg usually work.`);
  }
  const channels = Array.from({ length: audio.numberOfChannels }, (_, index) => audio.getChannelData(index));
  return channels[0].map((_, i) => channels.reduce((sum, channel) => sum + channel[i], 0) / channels.length);
}

/** `samples` at the rate `from`, resampled to `to`. */
async function resample(samples, from, to) {
  if (from === to) return samples;
  const context = new OfflineAudioContext(1, Math.round((samples.length * to) / from), to);
  const buffer = context.createBuffer(1, samples.length, from);
  buffer.copyToChannel(samples, 0);
  const source = context.createBufferSource();
  source.buffer = buffer;
  source.connect(context.destination);
  source.start();
  return (await context.startRendering()).getChannelData(0);
}

/** What a person can do about a microphone that does not open. */
const ADVICE = {
  NotAllowedError: "The browser was not allowed to use the microphone. Allow it for this page, then press Listen again.",
  NotFoundError: "No microphone was found. Connect one, then press Listen again; a recording works without.",
  NotReadableError: "The microphone is in use by another program, or does not answer.",
};

/** The microphone: keeps the newest seconds, and counts what it has heard. */
export class Microphone {
  #context;
  #stream;
  #ring;
  #count = 0;

  /** Opens it and keeps `seconds`. Throws an Error whose message is for people. */
  static async open(seconds) {
    if (!navigator.mediaDevices?.getUserMedia) {
      throw new Error("Browsers give the microphone to pages from https or from this machine only: open this page so.");
    }
    const microphone = new Microphone();
    // The model was trained on sound as it is.
    const audio = { echoCancellation: false, noiseSuppression: false, autoGainControl: false };
    try {
      microphone.#stream = await navigator.mediaDevices.getUserMedia({ audio });
      const context = new AudioContext();
      microphone.#context = context;
      microphone.#ring = new Float32Array(Math.ceil(seconds * context.sampleRate));
      await context.audioWorklet.addModule("capture.js");
      const capture = new AudioWorkletNode(context, "capture", { numberOfOutputs: 0 });
      capture.port.onmessage = ({ data }) => microphone.#keep(data);
      context.createMediaStreamSource(microphone.#stream).connect(capture);
      await context.resume();
    } catch (error) {
      await microphone.close();
      throw new Error(ADVICE[error.name] ?? `The microphone cannot be used: ${error.message}`);
    }
    return microphone;
  }

  #keep(block) {
    for (const sample of block) this.#ring[this.#count++ % this.#ring.length] = sample;
  }

  /** Seconds heard since it was opened. */
  get seconds() {
    return this.#count / this.#context.sampleRate;
  }

  /** All that is kept, oldest first, silence where nothing was heard yet, at `sampleRate` Hz. */
  newest(sampleRate) {
    const end = this.#count % this.#ring.length;
    const samples = new Float32Array(this.#ring.length);
    samples.set(this.#ring.subarray(end));
    samples.set(this.#ring.subarray(0, end), this.#ring.length - end);
    return resample(samples, this.#context.sampleRate, sampleRate);
  }

  async close() {
    for (const track of this.#stream?.getTracks() ?? []) track.stop();
    if (this.#context && this.#context.state !== "closed") await this.#context.close();
  }
}
