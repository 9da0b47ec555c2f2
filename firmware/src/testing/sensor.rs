//! A sensor that plays a script.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use crate::Sensor;

/// What a scripted sensor does when it is asked once.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scripted<T> {
    /// Gives a sample.
    Sample(T),
    /// Has none yet.
    Silence,
    /// Fails.
    Error,
}

/// A sensor that plays a script, then is silent.
#[derive(Debug)]
pub struct FakeSensor<T> {
    shared: Rc<RefCell<(VecDeque<Scripted<T>>, u32)>>,
}

impl<T> Clone for FakeSensor<T> {
    fn clone(&self) -> Self {
        FakeSensor { shared: self.shared.clone() }
    }
}

impl<T: Copy> FakeSensor<T> {
    /// A sensor with this script.
    pub fn new(script: impl IntoIterator<Item = Scripted<T>>) -> Self {
        FakeSensor { shared: Rc::new(RefCell::new((script.into_iter().collect(), 0))) }
    }

    /// A sensor with these samples and no faults.
    pub fn of(samples: impl IntoIterator<Item = T>) -> Self {
        FakeSensor::new(samples.into_iter().map(Scripted::Sample))
    }

    /// Adds to the script.
    pub fn then(&self, script: impl IntoIterator<Item = Scripted<T>>) {
        self.shared.borrow_mut().0.extend(script);
    }

    /// How often it was restarted.
    pub fn restarts(&self) -> u32 {
        self.shared.borrow().1
    }

    /// How much of the script is left.
    pub fn left(&self) -> usize {
        self.shared.borrow().0.len()
    }
}

impl<T: Copy> Sensor for FakeSensor<T> {
    type Sample = T;
    type Error = ();

    fn read(&mut self) -> Result<Option<T>, ()> {
        match self.shared.borrow_mut().0.pop_front() {
            Some(Scripted::Sample(sample)) => Ok(Some(sample)),
            Some(Scripted::Silence) | None => Ok(None),
            Some(Scripted::Error) => Err(()),
        }
    }

    fn waiting(&mut self) -> usize {
        let shared = self.shared.borrow();
        shared.0.iter().take_while(|step| matches!(step, Scripted::Sample(_))).count()
    }

    fn restart(&mut self) -> Result<(), ()> {
        self.shared.borrow_mut().1 += 1;
        Ok(())
    }
}
