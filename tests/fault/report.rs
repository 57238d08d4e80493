//! What a sweep found.

use std::fmt;

use crate::point::Point;

/// Lines per point: a cgroup that was left is left in ten hierarchies.
const SHOWN: usize = 4;

/// The points of one sweep.
#[derive(Debug)]
pub(crate) struct Report {
    name: String,
    points: Vec<Point>,
}

impl Report {
    pub(crate) fn new(name: String) -> Report {
        Report { name, points: Vec::new() }
    }

    pub(crate) fn add(&mut self, point: Point) {
        self.points.push(point);
    }

    /// No point was dirty. A sweep without any point has shown nothing.
    pub(crate) fn is_clean(&self) -> bool {
        !self.points.is_empty() && self.points.iter().all(|point| point.faults.is_empty())
    }

    fn count(&self, what: impl Fn(&Point) -> bool) -> usize {
        self.points.iter().filter(|point| what(point)).count()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dirty = self.count(|point| !point.faults.is_empty());
        writeln!(
            f,
            "{}: {} points, {dirty} not clean ({} %), {} hangs, {} without a message, {} tolerated",
            self.name,
            self.points.len(),
            100 * dirty / self.points.len().max(1),
            self.count(|point| point.hung),
            self.count(|point| point.silent),
            self.count(|point| point.tolerated),
        )?;
        for point in self.points.iter().filter(|point| !point.faults.is_empty()) {
            writeln!(f, "  {:4} {}", point.number, point.call)?;
            for fault in point.faults.iter().take(SHOWN) {
                writeln!(f, "         {fault}")?;
            }
            if point.faults.len() > SHOWN {
                writeln!(f, "         and {} more", point.faults.len() - SHOWN)?;
            }
        }
        Ok(())
    }
}
