// The page: what was pressed or dropped, and what is shown for it.
import { Microphone, decode } from "./audio.js";
import { draw } from "./spectrogram.js";

const HOP_S = 0.1; // between two answers while listening
const SHOWN_S = 3; // of sound in the picture while listening, or the model's window if that is longer
const SMOOTH = 3; // answers whose mean counts as heard
const THRESHOLD = 0.8; // mean score from which a word was heard
const PAUSE_S = 1; // before the next word is heard
const EVENTS = 12; // words that stay on the page
const LONGEST_S = 20; // of a recording; more would take long

const $ = (id) => document.getElementById(id);
const page = Object.fromEntries(
  ["model", "problem", "listen", "drop", "file", "spectrogram", "shown", "heard", "bars", "events", "latency", "runtime"].map((id) => [id, $(id)]),
);

/** The model behind the page, in its worker. */
class Engine {
  #worker = new Worker("engine.js", { type: "module" });
  #waiting = new Map();
  #asked = 0;

  constructor() {
    this.#worker.onmessage = ({ data: { id, ...answer } }) => {
      const { resolve, reject } = this.#waiting.get(id);
      this.#waiting.delete(id);
      if (answer.problem) reject(new Error(answer.problem));
      else resolve(answer);
    };
    this.#worker.onerror = () => {
      for (const { reject } of this.#waiting.values()) reject(new Error("onnxruntime-web did not load: is `ort/` beside the page?"));
      this.#waiting.clear();
    };
  }

  #ask(question) {
    const id = this.#asked++;
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject });
      this.#worker.postMessage({ id, ...question });
    });
  }

  open = (model) => this.#ask({ model });
  run = (waveform) => this.#ask({ waveform });
}

const engine = new Engine();
let card;
let microphone;

function say(problem) {
  page.problem.textContent = problem ?? "";
  page.problem.hidden = !problem;
}

/** Labels such as `_silence_` mean that nothing was heard. */
const isWord = (label) => !/^_.*_$/.test(label);
const percent = (score) => `${(100 * score).toFixed(0)} %`;

async function openModel(bytes, name) {
  try {
    ({ card } = await engine.open(bytes));
  } catch (error) {
    throw new Error(`“${name}” cannot be used: ${error.message}`);
  }
  page.model.textContent = `${card.name}: ${card.labels.length} labels, ${(card.window / card.sampleRate).toFixed(2)} s of sound an answer, ${(card.bytes / 1e6).toFixed(1)} MB`;
  page.runtime.textContent = `${card.runtime}, WebAssembly, one thread`;
  page.bars.replaceChildren(
    ...card.labels.map((label) => {
      const row = document.createElement("li");
      row.innerHTML = '<span class="name"></span><span class="track"><span class="fill"></span></span><span class="score">0 %</span>';
      row.querySelector(".name").textContent = label;
      row.querySelector(".name").title = label;
      return row;
    }),
  );
  page.events.replaceChildren();
  page.listen.disabled = page.file.disabled = false;
}

/** The window `[from, from + card.window)`, silence beyond the end. */
function windowAt(waveform, from) {
  const window = new Float32Array(card.window);
  window.set(waveform.subarray(from, from + card.window));
  return window;
}

function show(scores, ms) {
  const best = scores.indexOf(Math.max(...scores));
  [...page.bars.children].forEach((row, index) => {
    row.classList.toggle("best", index === best);
    row.querySelector(".fill").style.transform = `scaleX(${scores[index]})`;
    row.querySelector(".score").textContent = percent(scores[index]);
  });
  page.latency.textContent = `${ms.toFixed(1)} ms`;
}

function showWord(word) {
  page.heard.textContent = word ?? "nothing";
  page.heard.classList.toggle("quiet", !word);
}

function picture(waveform, from, what) {
  draw(page.spectrogram, waveform, card.sampleRate, [from, Math.min(waveform.length, from + card.window)]);
  page.shown.textContent = what;
  page.spectrogram.setAttribute("aria-label", `Spectrogram. ${what}`);
}

function addEvent(label, note) {
  const event = document.createElement("li");
  const time = document.createElement("time");
  time.textContent = note;
  event.append(label, time);
  event.dataset.label = label;
  page.events.prepend(event);
  page.events.children[EVENTS]?.remove();
}

/** A recording: of its windows the one in which a word is the surest, or the only one. */
async function hear(file) {
  const whole = await decode(file, card.sampleRate);
  const waveform = whole.subarray(0, Math.max(card.window, LONGEST_S * card.sampleRate));
  const least = Math.round(0.025 * card.sampleRate);
  if (waveform.length < least) throw new Error(`“${file.name}” is too short: it takes ${least / card.sampleRate} s at least.`);
  const hop = Math.ceil(card.window / 8);
  const last = Math.max(0, waveform.length - card.window);
  let best;
  for (let from = 0; ; from = Math.min(from + hop, last)) {
    page.shown.textContent = `Listening to ${file.name}: ${percent(last ? from / last : 1)}.`;
    // A clip that is shorter goes in as it is: the model fills it up as it was trained.
    const clip = waveform.length <= card.window ? waveform : windowAt(waveform, from);
    const { scores, ms } = await engine.run(clip);
    const word = Math.max(...scores.filter((_, index) => isWord(card.labels[index])));
    if (!best || word > best.word) best = { scores, ms, word, from };
    if (from === last) break;
  }
  show(best.scores, best.ms);
  const length = `${file.name}, ${(whole.length / card.sampleRate).toFixed(2)} s`;
  picture(waveform, best.from, waveform.length < whole.length ? `${length}, of which the first ${LONGEST_S} s were heard.` : `${length}.`);
  const top = best.scores.indexOf(Math.max(...best.scores));
  const label = card.labels[top];
  showWord(isWord(label) ? label : undefined);
  addEvent(label, percent(best.scores[top]));
}

/** Answers about the newest window until the microphone is closed. */
async function follow(open) {
  const recent = [];
  let quietUntil = 0;
  while (microphone === open) {
    const started = performance.now();
    if (open.seconds > 0) {
      const waveform = await open.newest(card.sampleRate);
      const from = waveform.length - card.window;
      const { scores, ms } = await engine.run(windowAt(waveform, from));
      if (microphone !== open) break;
      show(scores, ms);
      picture(waveform, from, `Microphone, ${open.seconds.toFixed(0)} s.`);
      recent.push(scores);
      if (recent.length > SMOOTH) recent.shift();
      const mean = scores.map((_, index) => recent.reduce((sum, row) => sum + row[index], 0) / recent.length);
      const top = mean.indexOf(Math.max(...mean));
      const label = card.labels[top];
      const word = mean[top] >= THRESHOLD && isWord(label) ? label : undefined;
      if (word && recent.length === SMOOTH && open.seconds >= quietUntil) {
        quietUntil = open.seconds + PAUSE_S;
        showWord(word);
        addEvent(word, `${open.seconds.toFixed(1)} s`);
      } else if (!word && open.seconds >= quietUntil) showWord(undefined);
    }
    await new Promise((resolve) => setTimeout(resolve, Math.max(0, 1000 * HOP_S - (performance.now() - started))));
  }
}

async function stopListening() {
  const open = microphone;
  microphone = undefined;
  page.listen.classList.remove("on");
  page.listen.textContent = "Listen";
  await open?.close();
}

async function startListening() {
  page.listen.disabled = true;
  try {
    microphone = await Microphone.open(Math.max(SHOWN_S, card.window / card.sampleRate));
  } finally {
    page.listen.disabled = false;
  }
  page.listen.classList.add("on");
  page.listen.textContent = "Stop";
  // Not awaited by the press: it runs until the next one.
  attempt(() => follow(microphone));
}

/** Runs `action`; what goes wrong is said on the page. */
async function attempt(action) {
  say(undefined);
  try {
    await action();
  } catch (error) {
    await stopListening();
    say(error.message);
  }
}

async function take(file) {
  if (!file) return;
  await stopListening();
  if (file.name.endsWith(".onnx")) await openModel(new Uint8Array(await file.arrayBuffer()), file.name);
  else await hear(file);
}

page.listen.addEventListener("click", () => attempt(microphone ? stopListening : startListening));
page.file.addEventListener("change", () => attempt(() => take(page.file.files[0])).then(() => (page.file.value = "")));
for (const type of ["dragenter", "dragover", "dragleave", "drop"]) {
  document.addEventListener(type, (event) => {
    event.preventDefault();
    page.drop.classList.toggle("over", type === "dragenter" || type === "dragover");
  });
}
document.addEventListener("drop", (event) => {
  // The list of files is gone once the event is.
  const [file] = event.dataTransfer.files;
  if (!file) say("What was dropped is not a file.");
  else if (!card && !file.name.endsWith(".onnx")) say("There is no model yet.");
  else attempt(() => take(file));
});

attempt(async () => {
  const response = await fetch("model.onnx");
  if (!response.ok) throw new Error(`There is no model.onnx beside the page (${response.status}): assemble the folder with targets/web/build.`);
  await openModel(new Uint8Array(await response.arrayBuffer()), "model.onnx");
}).finally(() => document.body.setAttribute("data-ready", String(Boolean(card))));
