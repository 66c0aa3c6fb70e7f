//! Places for labels beside points, so that none covers another.

use plotters::style::text_anchor::HPos;

use super::color::width;

/// Left, top, right and bottom in pixels.
pub type Rectangle = [i32; 4];

/// Height of a line of text, in pixels.
const HEIGHT: i32 = 14;

/// Pixels between a point and its label.
const GAP: i32 = 10;

/// What is taken of a picture.
pub struct Places {
    frame: Rectangle,
    taken: Vec<Rectangle>,
}

impl Places {
    /// Nothing is taken of the frame.
    pub fn new(frame: Rectangle) -> Self {
        Places { frame, taken: Vec::new() }
    }

    /// Takes a rectangle.
    pub fn take(&mut self, rectangle: Rectangle) {
        self.taken.push(rectangle);
    }

    /// Takes a place for a label beside a point: to the right, else to the left, then higher or lower.
    /// Returns it with the side at which the text is anchored, or `None` if all are taken.
    pub fn beside(&mut self, (x, y): (i32, i32), label: &str) -> Option<(Rectangle, HPos)> {
        let (wide, half) = (width(label), HEIGHT / 2);
        let right = [x + GAP, y - half, x + GAP + wide, y + half];
        let left = [x - GAP - wide, y - half, x - GAP, y + half];
        let shifted =
            |[left, top, right, bottom]: Rectangle, by: i32| [left, top + by, right, bottom + by];
        let above = [x - wide / 2, y - GAP - HEIGHT, x + wide / 2, y - GAP];
        let below = [x - wide / 2, y + GAP, x + wide / 2, y + GAP + HEIGHT];
        let tried = [
            (right, HPos::Left),
            (left, HPos::Right),
            (shifted(right, -HEIGHT), HPos::Left),
            (shifted(left, HEIGHT), HPos::Right),
            (shifted(right, HEIGHT), HPos::Left),
            (shifted(left, -HEIGHT), HPos::Right),
            (above, HPos::Center),
            (below, HPos::Center),
            (shifted(right, -2 * HEIGHT), HPos::Left),
            (shifted(left, 2 * HEIGHT), HPos::Right),
        ];
        let free = tried.into_iter().find(|(place, _)| self.is_free(*place))?;
        self.take(free.0);
        Some(free)
    }

    fn is_free(&self, [left, top, right, bottom]: Rectangle) -> bool {
        let [first, highest, last, lowest] = self.frame;
        let inside = left >= first && top >= highest && right <= last && bottom <= lowest;
        inside
            && !self.taken.iter().any(|taken| {
                left < taken[2] && taken[0] < right && top < taken[3] && taken[1] < bottom
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_do_not_cover_each_other() {
        let mut places = Places::new([0, 0, 400, 200]);
        let beside = |_| places.beside((200, 100), "label").map(|(place, _)| place);
        let found: Vec<_> = (0..20).filter_map(beside).collect();
        assert!(found.len() >= 4, "{found:?}");
        for (index, a) in found.iter().enumerate() {
            assert!(a[0] >= 0 && a[2] <= 400);
            for b in &found[index + 1..] {
                assert!(
                    a[2] <= b[0] || b[2] <= a[0] || a[3] <= b[1] || b[3] <= a[1],
                    "{a:?} {b:?}"
                );
            }
        }
    }
}
