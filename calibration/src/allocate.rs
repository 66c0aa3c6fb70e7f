//! Choosing one of several options for every item, with the least damage within a budget: the
//! multiple-choice knapsack problem.
//!
//! Items are linears, options their schemes, costs bytes or nanoseconds, damage a divergence that is
//! taken to add up. All sums of cost and damage that no other has both less of are built item by item
//! (Nemhauser and Ullmann 1969, for several choices), so that one run answers every budget.

use thiserror::Error;

/// Sums that are kept after each item. With more, the costs from the least to the greatest are divided
/// into as many steps, and of each step the sum of least damage is kept.
const MOST_SUMS: usize = 1 << 15;

/// One option of an item.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choice {
    /// What it costs, in whatever unit the budget has.
    pub cost: u64,
    /// What it does to the result. May be negative.
    pub damage: f64,
}

/// An option for every item.
#[derive(Clone, Debug, PartialEq)]
pub struct Allocation {
    /// Index of each item's option.
    pub options: Vec<usize>,
    /// Sum of costs.
    pub cost: u64,
    /// Sum of damages.
    pub damage: f64,
}

/// What cannot be allocated.
#[derive(Debug, Error, PartialEq)]
#[non_exhaustive]
pub enum AllocationError {
    /// An item without options.
    #[error("item {item} has no options")]
    NoOptions {
        /// The item.
        item: usize,
    },
    /// A damage that cannot be compared.
    #[error("option {option} of item {item} has a damage of {damage}, which is no number")]
    NotFinite {
        /// The item.
        item: usize,
        /// The option.
        option: usize,
        /// Its damage.
        damage: f64,
    },
    /// Costs beyond 64 bits.
    #[error("the costs of all items add up to more than 64 bits hold")]
    Overflow,
}

/// A sum over the items so far.
#[derive(Clone, Copy, Debug)]
struct Sum {
    cost: u64,
    damage: f64,
    /// The sum that it was made from, and the option that was added.
    from: u32,
    option: u32,
}

/// The allocations that no other is better than in both cost and damage, by ascending cost.
#[derive(Clone, Debug)]
pub struct Frontier {
    /// Sums after each item; of the last one, costs ascend and damages descend.
    after: Vec<Vec<Sum>>,
    exact: bool,
}

impl Frontier {
    /// Of items with the options given.
    ///
    /// # Errors
    ///
    /// If an item has no options, a damage is not finite, or the costs are beyond 64 bits.
    pub fn new(items: &[Vec<Choice>]) -> Result<Self, AllocationError> {
        Self::of_most(items, MOST_SUMS)
    }

    /// With at most `most` sums kept after each item.
    fn of_most(items: &[Vec<Choice>], most: usize) -> Result<Self, AllocationError> {
        check(items)?;
        let mut exact = true;
        let mut last = vec![Sum { cost: 0, damage: 0.0, from: 0, option: 0 }];
        let mut after = Vec::with_capacity(items.len());
        for choices in items {
            let mut sums = Vec::with_capacity(last.len() * choices.len());
            for (from, before) in (0u32..).zip(&last) {
                for (option, choice) in (0u32..).zip(choices) {
                    let cost = before.cost + choice.cost;
                    sums.push(Sum { cost, damage: before.damage + choice.damage, from, option });
                }
            }
            // Stable: of equal ones the first.
            sums.sort_by(|a, b| a.cost.cmp(&b.cost).then(a.damage.total_cmp(&b.damage)));
            let mut least = f64::INFINITY;
            sums.retain(|sum| {
                let better = sum.damage < least;
                least = least.min(sum.damage);
                better
            });
            if sums.len() > most {
                exact = false;
                thin(&mut sums, most);
            }
            last.clone_from(&sums);
            after.push(sums);
        }
        Ok(Frontier { after, exact })
    }

    /// Whether every allocation that could be best is among the sums. Otherwise costs and damages are
    /// still those of the options, but an allocation of up to items / 32766 of the range of costs less
    /// may have been missed.
    pub fn is_exact(&self) -> bool {
        self.exact
    }

    /// Cost and damage of every allocation, by ascending cost and descending damage.
    pub fn points(&self) -> impl ExactSizeIterator<Item = (u64, f64)> + '_ {
        self.sums().iter().map(|sum| (sum.cost, sum.damage))
    }

    /// The allocation of least damage that costs at most `budget`; none if all cost more.
    pub fn within(&self, budget: u64) -> Option<Allocation> {
        let affordable = self.sums().partition_point(|sum| sum.cost <= budget);
        affordable.checked_sub(1).map(|index| self.allocation(index))
    }

    /// The cheapest allocation whose damage is at most `most`; none if all do more.
    pub fn cheapest(&self, most: f64) -> Option<Allocation> {
        let sums = self.sums();
        let index = sums.partition_point(|sum| sum.damage > most);
        (index < sums.len()).then(|| self.allocation(index))
    }

    fn sums(&self) -> &[Sum] {
        self.after.last().map_or(&[], Vec::as_slice)
    }

    fn allocation(&self, index: usize) -> Allocation {
        let Sum { cost, damage, .. } = self.sums()[index];
        let mut options = Vec::with_capacity(self.after.len());
        let mut at = index;
        for sums in self.after.iter().rev() {
            options.push(sums[at].option as usize);
            at = sums[at].from as usize;
        }
        options.reverse();
        Allocation { options, cost, damage }
    }
}

fn check(items: &[Vec<Choice>]) -> Result<(), AllocationError> {
    let mut most = 0u64;
    for (item, choices) in items.iter().enumerate() {
        let dearest = choices.iter().map(|choice| choice.cost).max();
        let dearest = dearest.ok_or(AllocationError::NoOptions { item })?;
        most = most.checked_add(dearest).ok_or(AllocationError::Overflow)?;
        if let Some(option) = choices.iter().position(|choice| !choice.damage.is_finite()) {
            let damage = choices[option].damage;
            return Err(AllocationError::NotFinite { item, option, damage });
        }
    }
    Ok(())
}

/// Keeps of each step of cost the sum of least damage, and the cheapest of all.
fn thin(sums: &mut Vec<Sum>, most: usize) {
    let (Some(first), Some(last)) = (sums.first(), sums.last()) else { return };
    let (least, range) = (first.cost, u128::from(last.cost - first.cost).max(1));
    let step = |sum: &Sum| u128::from(sum.cost - least) * (most as u128 - 2) / range;
    // Damages descend: the last of a step has the least.
    let kept = sums.iter().enumerate().map(|(index, sum)| {
        let next = sums.get(index + 1);
        index == 0 || next.is_none_or(|next| step(next) != step(sum))
    });
    let mut kept = kept.collect::<Vec<_>>().into_iter();
    sums.retain(|_| kept.next().unwrap_or(false));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// All allocations, one after the other.
    fn all(items: &[Vec<Choice>]) -> Vec<(u64, f64)> {
        items.iter().fold(vec![(0, 0.0)], |sums, choices| {
            let add = |&(cost, damage): &(u64, f64)| {
                choices.iter().map(move |choice| (cost + choice.cost, damage + choice.damage))
            };
            sums.iter().flat_map(add).collect()
        })
    }

    fn check(items: &[Vec<Choice>], allocation: &Allocation) {
        let chosen = items.iter().zip(&allocation.options).map(|(item, &option)| item[option]);
        let sums = chosen
            .fold((0, 0.0), |(cost, damage), choice| (cost + choice.cost, damage + choice.damage));
        assert_eq!(sums, (allocation.cost, allocation.damage));
    }

    fn items(most: usize) -> impl Strategy<Value = Vec<Vec<Choice>>> {
        let choice =
            (0u64..60, -1i32..40).prop_map(|(cost, damage)| Choice { cost, damage: damage.into() });
        prop::collection::vec(prop::collection::vec(choice, 1..4), 0..most)
    }

    proptest! {
        #[test]
        fn nothing_is_better(items in items(7), budget in 0u64..400, most in -8.0f64..200.0) {
            let frontier = Frontier::new(&items).unwrap();
            prop_assert!(frontier.is_exact());
            if items.is_empty() {
                prop_assert!(frontier.within(budget).is_none());
                return Ok(());
            }
            let all = all(&items);
            let affordable = all.iter().filter(|(cost, _)| *cost <= budget);
            let least = affordable.map(|(_, damage)| *damage).reduce(f64::min);
            let found = frontier.within(budget);
            prop_assert_eq!(found.as_ref().map(|found| found.damage), least);
            if let Some(found) = found {
                prop_assert!(found.cost <= budget);
                check(&items, &found);
            }
            let good = all.iter().filter(|(_, damage)| *damage <= most);
            let cheapest = good.map(|(cost, _)| *cost).min();
            let found = frontier.cheapest(most);
            prop_assert_eq!(found.as_ref().map(|found| found.cost), cheapest);
            if let Some(found) = found {
                check(&items, &found);
            }
            prop_assert!(frontier.points().is_sorted_by(|a, b| a.0 < b.0 && a.1 > b.1));
        }
    }

    /// Items with more sums than are kept.
    #[test]
    fn thinned_frontiers_are_nearly_best() {
        let items: Vec<Vec<Choice>> = (0..60u64)
            .map(|item| {
                let size = 1_000_003 + item * item * 7919;
                let damage = ((item * 37 % 41) + 1) as f64;
                [(4, 1.0), (8, 0.05), (16, 0.0)]
                    .map(|(bits, part)| Choice { cost: size * bits, damage: damage * part })
                    .to_vec()
            })
            .collect();
        let frontier = Frontier::of_most(&items, 1 << 10).unwrap();
        assert!(!frontier.is_exact() && frontier.points().len() <= 1 << 10);
        let (least, most) = (frontier.points().next().unwrap(), frontier.points().last().unwrap());
        assert_eq!(least.0, items.iter().map(|item| item[0].cost).sum::<u64>());
        assert_eq!(most, (items.iter().map(|item| item[2].cost).sum::<u64>(), 0.0));
        for part in 1..20 {
            let budget = least.0 + (most.0 - least.0) * part / 20;
            let found = frontier.within(budget).unwrap();
            check(&items, &found);
            assert!(found.cost <= budget);
            // The bound of the linear relaxation: by damage saved for a cost.
            let mut upgrades: Vec<(f64, f64)> = items
                .iter()
                .flat_map(|item| {
                    item.windows(2).map(|pair| {
                        let saved = pair[0].damage - pair[1].damage;
                        (saved, (pair[1].cost - pair[0].cost) as f64)
                    })
                })
                .collect();
            upgrades.sort_by(|a, b| (b.0 / b.1).total_cmp(&(a.0 / a.1)));
            // What the thinning may cost, as documented.
            let missed = (most.0 - least.0) * 60 / (1 << 10);
            let (mut bound, mut left) = (least.1, budget.saturating_sub(least.0 + missed) as f64);
            for (saved, cost) in upgrades {
                let part = (left / cost).clamp(0.0, 1.0);
                bound -= saved * part;
                left -= cost * part;
            }
            assert!(found.damage <= bound * 1.02 + 0.1, "{} {bound}", found.damage);
        }
    }

    #[test]
    fn what_cannot_be_allocated_is_refused() {
        let choice = |cost, damage| Choice { cost, damage };
        let refused = |items: &[Vec<Choice>]| Frontier::new(items).unwrap_err();
        assert_eq!(refused(&[vec![]]), AllocationError::NoOptions { item: 0 });
        let error = refused(&[vec![choice(1, 1.0)], vec![choice(1, 0.0), choice(2, f64::NAN)]]);
        assert!(matches!(error, AllocationError::NotFinite { item: 1, option: 1, .. }));
        let error = refused(&[vec![choice(u64::MAX, 1.0)], vec![choice(1, 1.0)]]);
        assert_eq!(error, AllocationError::Overflow);
        let frontier = Frontier::new(&[vec![choice(5, 1.0)]]).unwrap();
        assert_eq!(frontier.within(4), None);
        assert_eq!(frontier.cheapest(0.5), None);
    }
}
