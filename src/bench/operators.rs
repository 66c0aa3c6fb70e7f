//! What each operator takes: a model whose linears are timed.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tessera_formats::gguf::Metadata;
use tessera_runtime::checkpoint::Checkpoint;
use tessera_runtime::linear::{Activations, Linear, LinearError};
use tessera_runtime::model::names;

/// The time of every operator. Where several linears run at once, as experts do, the time is divided among them, so
/// that all of it together is never more than has passed.
#[derive(Clone)]
pub struct Clock(Arc<Mutex<State>>);

struct State {
    operators: Vec<Operator>,
    /// Linears that run now.
    running: u32,
    /// Until when time has been given out.
    since: Instant,
}

/// An operator: the linears of one name in all layers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operator {
    /// Its name, such as `attn_q`.
    pub name: String,
    /// How often it was applied.
    pub calls: u64,
    /// How long that took.
    pub time: Duration,
    running: u32,
}

impl Clock {
    /// No time has passed.
    pub fn new() -> Self {
        let state = State { operators: Vec::new(), running: 0, since: Instant::now() };
        Clock(Arc::new(Mutex::new(state)))
    }

    /// What was measured since this was asked last, of the operators that were applied.
    pub fn take(&self) -> Vec<Operator> {
        let mut state = self.lock();
        state.pass(Instant::now());
        let taken = state.operators.iter().filter(|operator| operator.calls > 0).cloned().collect();
        for operator in &mut state.operators {
            (operator.calls, operator.time) = (0, Duration::ZERO);
        }
        taken
    }

    /// Number of the operator that a linear is of.
    fn operator(&self, linear: &str) -> usize {
        let name = operator_name(linear);
        let mut state = self.lock();
        let known = state.operators.iter().position(|operator| operator.name == name);
        known.unwrap_or_else(|| {
            let name = name.to_owned();
            state.operators.push(Operator { name, calls: 0, time: Duration::ZERO, running: 0 });
            state.operators.len() - 1
        })
    }

    /// A linear of an operator runs until what this gives is dropped.
    fn start(&self, operator: usize) -> Running<'_> {
        let mut state = self.lock();
        state.pass(Instant::now());
        state.running += 1;
        state.operators[operator].running += 1;
        state.operators[operator].calls += 1;
        Running { clock: self, operator }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Gives the time until `now` to the operators that ran.
    fn pass(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.since);
        self.since = now;
        if self.running == 0 {
            return;
        }
        for operator in self.operators.iter_mut().filter(|operator| operator.running > 0) {
            operator.time += match operator.running == self.running {
                true => passed,
                false => passed / self.running * operator.running,
            };
        }
    }
}

/// A linear that runs.
struct Running<'a> {
    clock: &'a Clock,
    operator: usize,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let mut state = self.clock.lock();
        state.pass(Instant::now());
        state.running -= 1;
        state.operators[self.operator].running -= 1;
    }
}

/// A linear's name without its layer and what it is of it: `ffn_down` of `blk.3.ffn_down.weight`.
fn operator_name(linear: &str) -> &str {
    // Only the head is a linear with the embedding's name.
    let linear = if linear == names::EMBEDDING { names::HEAD } else { linear };
    let of_layer = linear.strip_prefix("blk.").and_then(|rest| rest.split_once('.'));
    let name = of_layer.map_or(linear, |(_, name)| name);
    name.strip_suffix(".weight").unwrap_or(name)
}

/// A model whose linears are timed.
pub struct Timed<'a> {
    own: &'a dyn Checkpoint,
    clock: &'a Clock,
}

impl<'a> Timed<'a> {
    /// A model, and the clock that times it.
    pub fn new(own: &'a dyn Checkpoint, clock: &'a Clock) -> Self {
        Timed { own, clock }
    }
}

impl Checkpoint for Timed<'_> {
    fn metadata(&self) -> &Metadata {
        self.own.metadata()
    }

    fn names(&self) -> Vec<&str> {
        self.own.names()
    }

    fn dims(&self, name: &str) -> Option<Vec<u64>> {
        self.own.dims(name)
    }

    fn read_rows(&self, name: &str, first: u64, out: &mut [f32]) -> Result<(), LinearError> {
        self.own.read_rows(name, first, out)
    }

    fn linear_bytes(&self, name: &str) -> u64 {
        self.own.linear_bytes(name)
    }

    fn loaded_bytes(&self, name: &str) -> u64 {
        self.own.loaded_bytes(name)
    }

    fn linear(&self, name: &str) -> Result<Box<dyn Linear>, LinearError> {
        let own = self.own.linear(name)?;
        let (clock, operator) = (self.clock.clone(), self.clock.operator(name));
        Ok(Box::new(TimedLinear { own, clock, operator }))
    }
}

/// A linear that is timed.
struct TimedLinear {
    own: Box<dyn Linear>,
    clock: Clock,
    operator: usize,
}

impl Linear for TimedLinear {
    fn experts(&self) -> Option<usize> {
        self.own.experts()
    }

    fn n(&self) -> usize {
        self.own.n()
    }

    fn k(&self) -> usize {
        self.own.k()
    }

    fn apply(&self, x: &Activations<'_>, out: &mut [f32]) -> Result<(), LinearError> {
        let _running = self.clock.start(self.operator);
        self.own.apply(x, out)
    }

    fn apply_expert(
        &self,
        expert: usize,
        x: &Activations<'_>,
        rows: &[usize],
        out: &mut [f32],
    ) -> Result<(), LinearError> {
        let _running = self.clock.start(self.operator);
        self.own.apply_expert(expert, x, rows, out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operators_have_no_layer_in_their_names() {
        for (linear, name) in [
            ("blk.12.attn_q.weight", "attn_q"),
            ("blk.0.ffn_gate_up_exps.weight", "ffn_gate_up_exps"),
            ("output.weight", "output"),
            ("token_embd.weight", "output"),
            ("blk.x", "blk.x"),
        ] {
            assert_eq!(operator_name(linear), name);
        }
    }

    /// Time is given to what runs, in equal parts, and never more than there is.
    #[test]
    fn time_is_divided_among_what_runs_at_once() {
        let start = Instant::now();
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        let mut state =
            State { operators: ["a", "b"].map(operator).into(), running: 0, since: start };
        let run = |state: &mut State, operator: usize, begins: bool| match begins {
            true => {
                state.running += 1;
                state.operators[operator].running += 1;
            }
            false => {
                state.running -= 1;
                state.operators[operator].running -= 1;
            }
        };
        // Nothing for 10 ms, `a` alone for 20, two of `a` and one of `b` for 30, `b` alone for 5.
        state.pass(at(10));
        run(&mut state, 0, true);
        state.pass(at(30));
        run(&mut state, 0, true);
        run(&mut state, 1, true);
        state.pass(at(60));
        run(&mut state, 0, false);
        run(&mut state, 0, false);
        state.pass(at(65));
        let times: Vec<_> = state.operators.iter().map(|operator| operator.time).collect();
        assert_eq!(times, [40, 15].map(Duration::from_millis));
    }

    #[test]
    fn calls_are_counted_until_they_are_taken() {
        let clock = Clock::new();
        let (q, k) = (clock.operator("blk.0.attn_q.weight"), clock.operator("blk.0.attn_k.weight"));
        assert_eq!(clock.operator("blk.1.attn_q.weight"), q);
        assert_ne!(q, k);
        drop(clock.start(q));
        drop(clock.start(q));
        let taken = clock.take();
        assert_eq!(taken.len(), 1);
        assert_eq!((taken[0].name.as_str(), taken[0].calls), ("attn_q", 2));
        assert_eq!(clock.take(), []);
    }

    fn operator(name: &str) -> Operator {
        Operator { name: name.to_owned(), calls: 0, time: Duration::ZERO, running: 0 }
    }
}
