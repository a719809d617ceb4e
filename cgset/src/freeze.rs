//! freeze: hold all tasks of a group, and let them go: the v1 freezer, or v2's own (Linux 5.2).

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail};
use unshare::fail::hint;

use crate::files::{self, cannot};
use crate::group::{self, Place};
use crate::layout::Layout;

/// Longer than a task takes to come to a place where it can be held, but for those that hang in the kernel.
const LIMIT: Duration = Duration::from_secs(10);

/// Holds all tasks of a group: the v1 freezer or v2's own.
pub struct Freezer<'a> {
    place: &'a Place,
    file: &'static str,
}

impl Freezer<'_> {
    pub fn of(place: &Place) -> Option<Freezer<'_>> {
        let file = if place.hierarchy.v2 { "cgroup.freeze" } else { "freezer.state" };
        place.path.join(file).exists().then_some(Freezer { place, file })
    }

    pub fn hold(&self, deadline: Instant) {
        let _ = files::write(&self.place.path.join(self.file), self.values().0);
        while self.held() == Some(false) && Instant::now() < deadline {
            // A new child of v1 may have slipped in; writing again takes it too (freezer-subsystem.rst).
            if !self.place.hierarchy.v2 {
                let _ = files::write(&self.place.path.join(self.file), "FROZEN");
            }
            thread::sleep(Duration::from_micros(200));
        }
    }

    /// To hold, and to let go.
    fn values(&self) -> (&'static str, &'static str) {
        if self.place.hierarchy.v2 { ("1", "0") } else { ("FROZEN", "THAWED") }
    }

    /// None where the group is gone.
    fn held(&self) -> Option<bool> {
        let read = |file: &str| files::read(&self.place.path.join(file)).ok();
        match self.place.hierarchy.v2 {
            true => files::keyed(&read("cgroup.events")?, "frozen").map(|frozen| frozen == 1),
            false => read("freezer.state").map(|state| state.trim() == "FROZEN"),
        }
    }

    /// The groups below may have been frozen on their own.
    pub fn let_go(&self) {
        for dir in group::tree(&self.place.path) {
            let _ = files::write(&dir.join(self.file), self.values().1);
        }
    }
}

pub fn frozen(places: &[Place]) -> bool {
    places.iter().filter_map(Freezer::of).any(|freezer| freezer.held() == Some(true))
}

/// Comes back when every task is held; when that does not happen in time, all are let go again.
pub fn freeze(layout: &Layout, places: &[Place], name: &str) -> Result<()> {
    group::not_ourselves(layout, places, &format!("freeze '{name}'"))?;
    let freezer = only_one(places, name)?;
    let (on, _) = freezer.values();
    let file = freezer.place.path.join(freezer.file);
    files::write(&file, on).map_err(|errno| cannot("write to", &file, errno))?;
    freezer.hold(Instant::now() + LIMIT);
    if freezer.held() == Some(true) {
        return Ok(());
    }
    let _ = files::write(&file, freezer.values().1);
    let inside = group::name_them(&group::members(&freezer.place.path));
    bail!("cannot freeze '{name}' within {} seconds; inside: {inside}", LIMIT.as_secs())
}

/// Groups below that were frozen on their own stay so.
pub fn thaw(places: &[Place], name: &str) -> Result<()> {
    let freezer = only_one(places, name)?;
    let place = freezer.place;
    let file = place.path.join(freezer.file);
    files::write(&file, freezer.values().1).map_err(|errno| cannot("write to", &file, errno))?;
    let above = place.path.ancestors().skip(1).take_while(|dir| dir.starts_with(&place.hierarchy.mount));
    let frozen = |dir: &std::path::Path| {
        let text = files::read(&dir.join(freezer.file)).unwrap_or_default();
        matches!(text.trim(), "1" | "FROZEN" | "FREEZING")
    };
    if let Some(dir) = above.into_iter().find(|dir| frozen(dir)) {
        let error = anyhow!("'{name}' stays frozen, as the group above it is: '{}'", dir.display());
        return Err(hint(error, "thaw that one: cgset --thaw GROUP"));
    }
    let deadline = Instant::now() + LIMIT;
    while freezer.held() == Some(true) {
        if Instant::now() > deadline {
            bail!("'{name}' does not thaw");
        }
        thread::sleep(Duration::from_micros(200));
    }
    Ok(())
}

fn only_one<'a>(places: &'a [Place], name: &str) -> Result<Freezer<'a>> {
    places.iter().find_map(Freezer::of).ok_or_else(|| {
        let error =
            anyhow!("'{name}' cannot be frozen: there is neither a v1 freezer nor cgroup.freeze of v2");
        hint(error, "v2 has it from Linux 5.2 on")
    })
}
