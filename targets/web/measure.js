// Exported files in onnxruntime-web, held against reference outputs: the columns of a table that Node and a browser fill.

/**
 * Runs every case and returns one row each: `{ model, max_abs_error, ms }`, or `{ model, refused }` with the reason.
 * `cases` is the content of `cases.json`: `[{ model, input: { name, shape, file }, logits: { file } }]`, files being raw
 * little-endian float32. `load` returns the bytes of a file of that folder; ms is the fastest of `runs`.
 */
export async function measure(ort, cases, load, runs) {
  ort.env.wasm.numThreads = 1;
  const floats = async (file) => new Float32Array((await load(file)).slice().buffer);
  const rows = [];
  for (const { model, input, logits } of cases) {
    try {
      const session = await ort.InferenceSession.create(await load(model));
      const feeds = { [input.name]: new ort.Tensor(await floats(input.file), input.shape) };
      const expected = await floats(logits.file);
      const got = (await session.run(feeds)).logits.data;
      if (got.length !== expected.length) throw new Error(`${got.length} logits, expected ${expected.length}`);
      const max_abs_error = expected.reduce((worst, value, i) => Math.max(worst, Math.abs(value - got[i])), 0);
      if (!got.every(Number.isFinite)) throw new Error("logits that are not finite");
      let ms = Infinity;
      for (let run = 0; run < runs; run++) {
        const start = performance.now();
        await session.run(feeds);
        ms = Math.min(ms, performance.now() - start);
      }
      rows.push({ model, max_abs_error, ms });
      await session.release();
    } catch (error) {
      rows.push({ model, refused: String(error.message ?? error) });
    }
  }
  return rows;
}
