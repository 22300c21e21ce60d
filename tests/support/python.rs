//! A stock ONNX Runtime, the Python package without our library, as one more runtime.

use std::{
    io::{Read, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use anyhow::{Context, Result};
use ssamba_contract::{Card, Outputs, Session, Tensor};

/// The interpreter with the packages of `tests/python/requirements.txt`.
pub fn command(script: &str) -> Command {
    let script: PathBuf = [env!("CARGO_MANIFEST_DIR"), "python", script].iter().collect();
    let mut command = Command::new("python3");
    command.arg(script);
    command
}

/// A Python process that holds one model.
pub struct StockSession {
    process: Child,
    stdin: ChildStdin,
    stdout: ChildStdout,
    card: Card,
}

impl StockSession {
    /// Starts Python on `model`; `card` spares reading it there.
    ///
    /// # Errors
    /// When Python cannot be started.
    pub fn open(model: &Path, card: Card) -> Result<Self> {
        let mut process = command("stock_session.py")
            .arg(model)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("python3 is needed: run the suite by tests/run")?;
        let (stdin, stdout) = (process.stdin.take(), process.stdout.take());
        let (stdin, stdout) = stdin.zip(stdout).context("both ends are piped")?;
        Ok(Self { process, stdin, stdout, card })
    }

    /// Runs on all inputs of the graph, in order.
    ///
    /// # Errors
    /// When Python failed; its words are on stderr.
    pub fn run_raw(&mut self, inputs: &[&Tensor]) -> Result<Vec<(String, Tensor)>> {
        let mut request = (inputs.len() as u32).to_le_bytes().to_vec();
        for input in inputs {
            let axes = [input.shape().len()].into_iter().chain(input.shape().iter().copied());
            request.extend(axes.flat_map(|size| (size as u32).to_le_bytes()));
            request.extend(input.data().iter().flat_map(|value| value.to_le_bytes()));
        }
        self.stdin.write_all(&request)?;
        self.stdin.flush()?;
        let count = self.read_u32().context("Python gave no answer: run the suite by tests/run")?;
        (0..count).map(|_| Ok((self.read_name()?, self.read_tensor()?))).collect()
    }

    fn read_name(&mut self) -> Result<String> {
        let mut bytes = vec![0; self.read_u32()?];
        self.stdout.read_exact(&mut bytes)?;
        Ok(String::from_utf8(bytes)?)
    }

    fn read_u32(&mut self) -> Result<usize> {
        let mut bytes = [0; 4];
        self.stdout.read_exact(&mut bytes)?;
        Ok(u32::from_le_bytes(bytes) as usize)
    }

    fn read_tensor(&mut self) -> Result<Tensor> {
        let rank = self.read_u32()?;
        let shape = (0..rank).map(|_| self.read_u32()).collect::<Result<Vec<_>>>()?;
        let mut bytes = vec![0; 4 * shape.iter().product::<usize>()];
        self.stdout.read_exact(&mut bytes)?;
        let values = bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes));
        Ok(Tensor::new(shape, values.collect())?)
    }
}

impl Drop for StockSession {
    fn drop(&mut self) {
        // The process may have ended already; there is nobody to tell.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Session for StockSession {
    fn provider(&self) -> &str {
        "stock ONNX Runtime in Python"
    }

    fn card(&self) -> &Card {
        &self.card
    }

    fn run(&mut self, fbank: &Tensor) -> Result<Outputs> {
        Ok(Outputs::new(self.run_raw(&[fbank])?))
    }
}
