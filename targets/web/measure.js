// Exported files in onnxruntime-web, held against reference outputs: columns of the table of tests/benches/matrix.rs, which
// says what `cases.json` and a column are.

/** A column. `load` gives the bytes of a file of the folder of cases; ms is the fastest of `runs`. */
export async function measure(ort, runtime, load, runs) {
  ort.env.wasm.numThreads = 1;
  ort.env.logLevel = "error";
  const cases = JSON.parse(new TextDecoder().decode(await load("cases.json")));
  const cells = [];
  for (const { name, file, input, shape, data, logits } of cases) {
    try {
      const session = await ort.InferenceSession.create(await load(file));
      const values = new Float32Array((await load(data)).slice().buffer);
      const feeds = { [input]: new ort.Tensor(values, shape) };
      const got = (await session.run(feeds)).logits.data;
      if (got.length !== logits.length) throw new Error(`${got.length} logits, expected ${logits.length}`);
      if (!got.every(Number.isFinite)) throw new Error("logits that are not finite");
      const max_abs_error = logits.reduce((worst, value, i) => Math.max(worst, Math.abs(value - got[i])), 0);
      let ms = Infinity;
      for (let run = 0; run < runs; run++) {
        const start = performance.now();
        await session.run(feeds);
        ms = Math.min(ms, performance.now() - start);
      }
      cells.push({ case: name, max_abs_error, ms });
      await session.release();
    } catch (error) {
      cells.push({ case: name, reason: String(error.message ?? error) });
    }
  }
  return { runtime: `onnxruntime-web ${ort.env.versions.web} in ${runtime}`, cells };
}
