//! Questions, of which those that fail are kept with their error.

use tessera_formats::npu::probe::Failure;
use tessera_runtime::rknn::RknnError;
use tessera_runtime::rknn::check::Finding;

/// The call that runs a matmul.
const RUN: &str = "rknn_matmul_run";

/// Runs that may fail before nothing more is asked: the driver waits six seconds for each.
const MOST_FAILED_RUNS: usize = 3;

/// What was asked in vain.
#[derive(Debug, Default)]
pub struct Questions {
    failures: Vec<Failure>,
    failed_runs: usize,
    not_asked: Vec<String>,
}

impl Questions {
    /// The answer to a question, if there is one.
    pub fn ask<T>(
        &mut self,
        question: &str,
        answer: impl FnOnce() -> Result<T, RknnError>,
    ) -> Option<T> {
        if self.failed_runs >= MOST_FAILED_RUNS {
            self.not_asked.push(question.to_owned());
            return None;
        }
        match answer() {
            Ok(answer) => Some(answer),
            Err(error) => {
                if matches!(error, RknnError::Call { call: RUN, .. }) {
                    self.failed_runs += 1;
                }
                let question = question.to_owned();
                self.failures.push(Failure { question, error: error.to_string() });
                None
            }
        }
    }

    /// Takes the runs into account that failed in a self-test.
    pub fn note(&mut self, findings: &[Finding]) {
        let failed = |finding: &&Finding| {
            finding.call.as_ref().is_some_and(|(code, text)| *code != 0 && text.contains(RUN))
        };
        self.failed_runs += findings.iter().filter(failed).count();
    }

    /// Questions without an answer.
    pub fn failures(self) -> Vec<Failure> {
        let error = format!("not asked: `{RUN}` failed {} times before", self.failed_runs);
        let not_asked = self.not_asked.into_iter();
        let not_asked = not_asked.map(|question| Failure { question, error: error.clone() });
        self.failures.into_iter().chain(not_asked).collect()
    }
}
