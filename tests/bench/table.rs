//! What came out.

use std::fmt;
use std::fmt::Write;

use tests::view::View;

use crate::subject::Kind;

/// One verb of one subject.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) verb: &'static str,
    pub(crate) kind: Kind,
    /// Milliseconds, one per round.
    pub(crate) times: Vec<f64>,
    /// System calls of the whole tree.
    pub(crate) calls: usize,
    /// Peak of the resident memory of the whole tree, in kB.
    pub(crate) peak: usize,
    pub(crate) failure: Option<String>,
}

impl Row {
    pub(crate) fn new(verb: &'static str, kind: Kind) -> Row {
        Row { verb, kind, times: Vec::new(), calls: 0, peak: 0, failure: None }
    }

    /// The time that this part of the rounds stayed below.
    fn quantile(&self, part: f64) -> Option<f64> {
        quantile(&self.times, part).filter(|_| self.failure.is_none())
    }

    fn median(&self) -> Option<f64> {
        self.quantile(0.5)
    }
}

/// The value that this part of VALUES stays below.
pub(crate) fn quantile(values: &[f64], part: f64) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = ((sorted.len() as f64 * part).ceil() as usize).max(1) - 1;
    sorted.get(at).copied()
}

/// A number for a reader.
pub(crate) fn number(value: Option<f64>) -> String {
    value.map_or("–".to_string(), |value| format!("{value:.2}"))
}

/// All of one spec on one view.
pub(crate) struct Table {
    pub(crate) view: View,
    pub(crate) spec: String,
    pub(crate) rows: Vec<Row>,
}

/// What the project holds itself to.
pub(crate) struct Bar {
    what: String,
    value: f64,
    limit: f64,
    pub(crate) met: bool,
}

impl fmt::Display for Bar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = if self.met { "met" } else { "MISSED" };
        write!(f, "bar {word}: {} {:.2}, at most {:.2}", self.what, self.value, self.limit)
    }
}

const HEAD: [&str; 9] = ["verb", "of", "min", "median", "p95", "× peer", "× floor", "peak kB", "calls"];

impl Table {
    fn find(&self, verb: &str, kind: Kind) -> Option<&Row> {
        self.rows.iter().find(|row| row.verb == verb && row.kind == kind)
    }

    /// crun where it runs, else runc.
    fn peer(&self) -> Kind {
        if self.find("run", Kind::Crun).is_some_and(|row| row.median().is_some()) { Kind::Crun } else { Kind::Runc }
    }

    fn ratio(&self, row: &Row, to: Kind) -> Option<f64> {
        Some(row.median()? / self.find(row.verb, to)?.median()?)
    }

    fn title(&self) -> String {
        format!("cgroup {:?}, {} spec, peer {}", self.view, self.spec, self.peer().name()).replace("V", "v")
    }

    fn cells(&self, row: &Row) -> [String; 9] {
        let count = |value: usize| if value == 0 { "–".to_string() } else { value.to_string() };
        [
            row.verb.to_string(),
            row.kind.name().to_string(),
            number(row.quantile(0.0)),
            number(row.median()),
            number(row.quantile(0.95)),
            number(self.ratio(row, self.peer())),
            number(self.ratio(row, Kind::Floor)),
            count(row.peak),
            count(row.calls),
        ]
    }

    /// For a terminal.
    pub(crate) fn text(&self) -> String {
        let mut text = format!("{}\n", self.title());
        let mut line = |cells: &[String]| {
            let _ = write!(text, "{:8} {:6}", cells[0], cells[1]);
            for cell in &cells[2..] {
                let _ = write!(text, " {cell:>9}");
            }
            text.push('\n');
        };
        line(&HEAD.map(str::to_string));
        for row in &self.rows {
            line(&self.cells(row));
        }
        text + &self.failures()
    }

    /// For BENCHMARKS.md.
    pub(crate) fn markdown(&self) -> String {
        let mut text = format!("### {}\n\n| {} |\n|---|---|{}\n", self.title(), HEAD.join(" | "), "--:|".repeat(7));
        for row in &self.rows {
            let _ = writeln!(text, "| {} |", self.cells(row).join(" | "));
        }
        text + "\n" + &self.failures()
    }

    fn failures(&self) -> String {
        let failed = self.rows.iter().filter_map(|row| Some((row, row.failure.as_ref()?)));
        failed.map(|(row, why)| format!("{} {} failed: {why}\n", row.kind.name(), row.verb)).collect()
    }

    /// The bars against crun hold where crun runs; the one against the floor everywhere.
    pub(crate) fn bars(&self) -> Vec<Bar> {
        let mut bars = Vec::new();
        let mut add = |what: &str, value: Option<f64>, limit: f64| {
            let what = format!("{what} on {}", self.title());
            bars.extend(value.map(|value| Bar { what, value, limit, met: value <= limit }));
        };
        let (Some(run), Some(exec)) = (self.find("run", Kind::Jail), self.find("exec", Kind::Jail)) else {
            return bars;
        };
        add("run / floor", self.ratio(run, Kind::Floor), 1.5);
        if let Some(crun) = self.find("run", Kind::Crun).filter(|row| row.median().is_some()) {
            add("run / crun", self.ratio(run, Kind::Crun), 0.5);
            add("exec / crun", self.ratio(exec, Kind::Crun), 0.5);
            let memory = run.median().map(|_| run.peak as f64 / crun.peak.max(1) as f64);
            add("peak memory of run / crun", memory, 0.5);
        }
        bars
    }
}
