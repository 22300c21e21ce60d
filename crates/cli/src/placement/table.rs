//! The table of `inspect --placement`.

use std::{
    io::{self, Write},
    path::Path,
};

use anyhow::Result;
use serde::Serialize;
use serde_json::json;
use ssamba_contract::Session;
use ssamba_ort::{OrtSession, Placement};

use crate::terminal;

/// All nodes of one operator on one provider, in a mean run.
#[derive(Serialize)]
struct Row {
    provider: String,
    op: String,
    nodes: usize,
    /// More than nodes where they are in a loop.
    executions: usize,
    ms: f64,
}

/// Prints where the nodes of `model` ran, by operator and provider, what took longest first.
pub fn print(
    model: &Path,
    session: &OrtSession,
    placement: &Placement,
    as_json: bool,
) -> Result<()> {
    let runs = placement.runs().max(1) as f64;
    let rows: Vec<Row> = placement
        .ops()
        .into_iter()
        .map(|op| Row {
            provider: op.provider,
            op: op.op_type,
            nodes: op.nodes,
            executions: op.executions / placement.runs().max(1),
            ms: (op.time.as_secs_f64() * 1e6 / runs).round() / 1e3,
        })
        .collect();
    let mut stdout = io::stdout().lock();
    if as_json {
        let report = json!({
            "file": model.display().to_string(),
            "provider": session.provider(),
            "library": session.library().to_string(),
            "runs": placement.runs(),
            "nodes": placement.nodes().len(),
            "ops": rows,
        });
        writeln!(stdout, "{report}")?;
    } else {
        let width = rows.iter().map(|row| row.op.len()).max().unwrap_or_default();
        writeln!(stdout, "{:<8}  {:<width$}  nodes  executions        ms", "provider", "op")?;
        for row in &rows {
            let Row { provider, op, nodes, executions, ms } = row;
            writeln!(
                stdout,
                "{provider:<8}  {op:<width$}  {nodes:>5}  {executions:>10}  {ms:>8.3}"
            )?;
        }
    }
    terminal::note(format!(
        "per run, the mean of {} on zeros after one that plans; a loop's time is without that of the nodes in it",
        placement.runs()
    ));
    if placement.nodes().iter().any(|node| node.provider != "cpu") {
        terminal::note(
            "ONNX Runtime's clock is the CPU's: times on a GPU are those of launches, not of the work",
        );
    }
    Ok(())
}
