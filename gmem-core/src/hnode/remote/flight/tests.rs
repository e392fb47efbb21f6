//! Batches on their way, to holders that answer when they are told to.

use std::sync::Mutex;

use super::*;
use crate::pager::holder::{Health, HolderError};

/// Takes what it is sent, if it is up, and answers when it is told to.
struct Slow {
    up: bool,
    answer: Mutex<Option<Result<(), HolderError>>>,
    /// Pages of each request.
    asked: Mutex<Vec<usize>>,
}

impl Holder for Slow {
    fn name(&self) -> &str {
        "slow"
    }

    fn health(&self) -> Health {
        Health {
            up: self.up,
            life: 1,
            draining: false,
        }
    }

    fn trouble(&self) -> Option<String> {
        None
    }

    fn start(&self, _: Verb, pages: &[Page], _: &[u8], _: Instant) -> Result<Ticket, HolderError> {
        self.asked.lock().unwrap().push(pages.len());
        Ok(Ticket { epoch: 1, id: 1 })
    }

    fn finish(
        &self,
        _: Ticket,
        _: &mut Vec<Page>,
        _: &mut [u8],
        _: Instant,
    ) -> Result<(), HolderError> {
        Err(HolderError::Late)
    }

    fn ended(&self, _: &Ticket) -> Option<Result<(), HolderError>> {
        self.answer.lock().unwrap().clone()
    }

    fn receive(&self, _: Instant) {}

    fn tend(&self) {}

    fn leave(&self) {}
}

fn slow(up: bool) -> Arc<Slow> {
    Arc::new(Slow {
        up,
        answer: Mutex::default(),
        asked: Mutex::default(),
    })
}

fn answer(of: &Slow, what: Result<(), HolderError>) {
    *of.answer.lock().unwrap() = Some(what);
}

/// Sends a page to two, somebody looks for what is lacking while nobody has answered, and then both do as they do.
/// Whether something is known to be lacking at the end.
fn is_lacking(second_is_up: bool, second: Result<(), HolderError>) -> bool {
    let (a, b) = (slow(true), slow(second_is_up));
    let holders: [Arc<dyn Holder>; 2] = [Arc::clone(&a) as _, Arc::clone(&b) as _];
    let marks = Marks::new(1);
    let page = Page {
        version: marks.renew(0).into(),
        ..Page::default()
    };
    let mut flight = Flight::default();
    let content = (vec![page], vec![0; PAGE_LEN]);
    flight.send(&holders, &marks, content, Instant::now());
    flight.send_again(&holders, &marks, Instant::now());
    answer(&b, second);
    flight.reap(&holders, &marks);
    // Nobody has it yet, so nobody can be found to lack it.
    marks.look();
    marks.looked(false);
    answer(&a, Ok(()));
    flight.reap(&holders, &marks);
    assert_eq!(flight.pages(), 0);
    marks.is_lacking()
}

#[test]
fn pages_that_come_alone_travel_together_and_are_here_until_then() {
    let holder = slow(true);
    let holders: [Arc<dyn Holder>; 1] = [Arc::clone(&holder) as _];
    let marks = Marks::new(100);
    let mut flight = Flight::default();
    let now = Instant::now();
    for number in 0..100 {
        let page = Page {
            number: number.into(),
            version: marks.renew(number).into(),
            ..Page::default()
        };
        let content = (vec![page], vec![number as u8; PAGE_LEN]);
        flight.send(&holders, &marks, content, now);
    }
    let here = |flight: &Flight| {
        (0..100).all(|number| {
            let found = flight.get(number);
            found.is_some_and(|(page, bytes)| page.number == number && bytes[9] == number as u8)
        })
    };
    assert!(here(&flight) && flight.pages() == 100);
    assert_eq!(*holder.asked.lock().unwrap(), [64]);
    flight.send_again(&holders, &marks, now);
    assert_eq!(*holder.asked.lock().unwrap(), [64, 36]);
    flight.reap(&holders, &marks);
    assert!(here(&flight));
    answer(&holder, Ok(()));
    flight.reap(&holders, &marks);
    assert_eq!((flight.pages(), flight.get(5)), (0, None));
    assert!((0..100).all(|number| marks.get(number).holders == 1));
}

#[test]
fn what_is_forgotten_before_it_was_sent_is_not_sent() {
    let holder = slow(true);
    let holders: [Arc<dyn Holder>; 1] = [Arc::clone(&holder) as _];
    let (marks, mut flight) = (Marks::new(1), Flight::default());
    let page = Page {
        version: marks.renew(0).into(),
        ..Page::default()
    };
    let content = (vec![page], vec![0; PAGE_LEN]);
    flight.send(&holders, &marks, content, Instant::now());
    marks.clear(0);
    flight.send_again(&holders, &marks, Instant::now());
    flight.reap(&holders, &marks);
    assert_eq!(flight.pages(), 0);
    assert!(holder.asked.lock().unwrap().is_empty());
}

#[test]
fn what_one_missed_is_lacking_from_when_the_other_has_it() {
    assert!(!is_lacking(true, Ok(())));
    assert!(is_lacking(true, Err(HolderError::Late)));
    assert!(is_lacking(false, Ok(())));
}
