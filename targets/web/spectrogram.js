// A picture of a waveform: power of 25 ms frames on a mel scale, for people. The model computes its own front end.

const FFT = 512;
const FRAME_S = 0.025;
const RANGE_DB = 70;

/** In-place FFT of `FFT` complex values. */
function fft(re, im) {
  for (let i = 1, j = 0; i < FFT; i++) {
    let bit = FFT >> 1;
    for (; j & bit; bit >>= 1) j ^= bit;
    j ^= bit;
    if (i < j) [re[i], re[j], im[i], im[j]] = [re[j], re[i], im[j], im[i]];
  }
  for (let size = 2; size <= FFT; size *= 2) {
    for (let k = 0; k < size / 2; k++) {
      const cos = Math.cos((2 * Math.PI * k) / size);
      const sin = -Math.sin((2 * Math.PI * k) / size);
      for (let i = k; i < FFT; i += size) {
        const j = i + size / 2;
        const x = re[j] * cos - im[j] * sin;
        const y = re[j] * sin + im[j] * cos;
        re[j] = re[i] - x;
        im[j] = im[i] - y;
        re[i] += x;
        im[i] += y;
      }
    }
  }
}

/** 256 colours from night to light, RGB. */
const COLOURS = (() => {
  const stops = [[11, 11, 20], [44, 21, 92], [122, 40, 138], [208, 72, 120], [248, 135, 96], [253, 226, 160]];
  return Array.from({ length: 256 }, (_, i) => {
    const at = (i / 255) * (stops.length - 1);
    const low = Math.min(Math.floor(at), stops.length - 2);
    return stops[low].map((value, c) => Math.round(value + (stops[low + 1][c] - value) * (at - low)));
  });
})();

const mel = (hz) => 1127 * Math.log(1 + hz / 700);
const hz = (value) => 700 * (Math.exp(value / 1127) - 1);

/** Power in dB, `[columns][rows]`, row 0 the lowest frequency. */
function powers(waveform, sampleRate, columns, rows) {
  const length = Math.round(FRAME_S * sampleRate);
  const taper = Float32Array.from({ length }, (_, i) => 0.5 - 0.5 * Math.cos((2 * Math.PI * (i + 0.5)) / length));
  const bins = Array.from({ length: rows }, (_, row) => (hz((mel(sampleRate / 2) * (row + 0.5)) / rows) * FFT) / sampleRate);
  return Array.from({ length: columns }, (_, column) => {
    const start = Math.round(((waveform.length - length) * column) / Math.max(1, columns - 1));
    const [re, im] = [new Float64Array(FFT), new Float64Array(FFT)];
    for (let i = 0; i < length; i++) re[i] = (waveform[start + i] ?? 0) * taper[i];
    fft(re, im);
    const power = Float64Array.from({ length: FFT / 2 + 1 }, (_, i) => re[i] ** 2 + im[i] ** 2);
    return bins.map((bin) => {
      const low = Math.min(Math.floor(bin), FFT / 2 - 1);
      return 10 * Math.log10(power[low] + (power[low + 1] - power[low]) * (bin - low) + 1e-10);
    });
  });
}

/** Draws `waveform`, and a frame around the samples `[from, to)`. */
export function draw(canvas, waveform, sampleRate, [from, to]) {
  const { width, height } = canvas;
  const [columns, rows] = [width / 3, height / 2];
  const picture = new ImageData(columns, rows);
  const db = powers(waveform, sampleRate, columns, rows);
  // A quiet room stays dark.
  const top = db.flat().reduce((a, b) => Math.max(a, b), -10);
  db.forEach((column, x) =>
    column.forEach((value, row) => {
      const level = Math.max(0, Math.min(255, Math.round((255 * (value - top + RANGE_DB)) / RANGE_DB)));
      picture.data.set([...COLOURS[level], 255], 4 * ((rows - 1 - row) * columns + x));
    }),
  );
  const context = canvas.getContext("2d");
  const small = new OffscreenCanvas(columns, rows);
  small.getContext("2d").putImageData(picture, 0, 0);
  context.imageSmoothingQuality = "high";
  context.drawImage(small, 0, 0, width, height);
  const [left, right] = [from, to].map((sample) => (width * sample) / waveform.length);
  context.fillStyle = "rgb(8 8 16 / 55%)";
  context.fillRect(0, 0, left, height);
  context.fillRect(right, 0, width - right, height);
  context.strokeStyle = "rgb(255 255 255 / 80%)";
  context.lineWidth = 2;
  context.strokeRect(left + 1, 1, Math.max(2, right - left - 2), height - 2);
}
