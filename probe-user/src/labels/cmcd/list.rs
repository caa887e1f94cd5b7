//! The list that CMCD is written as: version 1's `key=value` pairs and version 2's dictionaries of
//! RFC 8941 in one scanner, which takes what it can and skips the rest.

/// Members that are read; a player has some forty keys.
const MOST_MEMBERS: usize = 64;
/// Items that are read of an inner list.
const MOST_ITEMS: usize = 8;

/// One value as it stands, without its quotes and parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bare<'a> {
    /// The key alone: true.
    True,
    /// `?0`, or version 1's `false`.
    False,
    /// What was in quotes; escapes are still in it.
    Text(&'a [u8]),
    /// A number or a token.
    Word(&'a [u8]),
}

/// One value of a key, and the name of its first parameter that is true (`900;a`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Item<'a> {
    pub(super) bare: Bare<'a>,
    pub(super) of: Option<&'a [u8]>,
}

/// Calls `each` with every key and each of its values.
pub(super) fn scan<'a>(list: &'a [u8], mut each: impl FnMut(&'a [u8], Item<'a>)) {
    let mut scanner = Scanner { rest: list };
    for _ in 0..MOST_MEMBERS {
        scanner.skip(|byte| byte == b',' || is_space(byte));
        if scanner.rest.is_empty() {
            return;
        }
        let key = scanner.take(|byte| !matches!(byte, b'=' | b',' | b';') && !is_space(byte));
        if !scanner.eat(b'=') {
            let of = scanner.parameters();
            let bare = Bare::True;
            each(key, Item { bare, of });
        } else if scanner.eat(b'(') {
            scanner.inner_list(|item| each(key, item));
        } else {
            each(key, scanner.item());
        }
        // What is not understood ends with the member.
        scanner.skip(|byte| byte != b',');
    }
}

#[derive(Debug)]
struct Scanner<'a> {
    rest: &'a [u8],
}

impl<'a> Scanner<'a> {
    fn eat(&mut self, byte: u8) -> bool {
        match self.rest.split_first() {
            Some((first, rest)) if *first == byte => {
                self.rest = rest;
                true
            }
            _ => false,
        }
    }

    fn take(&mut self, mut of: impl FnMut(u8) -> bool) -> &'a [u8] {
        let end = self.rest.iter().position(|byte| !of(*byte));
        let (taken, rest) = self.rest.split_at(end.unwrap_or(self.rest.len()));
        self.rest = rest;
        taken
    }

    fn skip(&mut self, of: impl FnMut(u8) -> bool) {
        self.take(of);
    }

    fn item(&mut self) -> Item<'a> {
        let bare = self.bare();
        Item {
            bare,
            of: self.parameters(),
        }
    }

    fn bare(&mut self) -> Bare<'a> {
        if self.eat(b'"') {
            return Bare::Text(self.text());
        }
        let word = self.take(|byte| !matches!(byte, b',' | b';' | b'(' | b')') && !is_space(byte));
        match word {
            b"?1" | b"true" => Bare::True,
            b"?0" | b"false" => Bare::False,
            word => Bare::Word(word),
        }
    }

    /// Up to the closing quote, or to the end if there is none.
    fn text(&mut self) -> &'a [u8] {
        let mut escaped = false;
        let text = self.take(|byte| {
            let ends = byte == b'"' && !escaped;
            escaped = byte == b'\\' && !escaped;
            !ends
        });
        self.eat(b'"');
        text
    }

    /// The name of the first parameter without a value.
    fn parameters(&mut self) -> Option<&'a [u8]> {
        let mut of = None;
        while self.eat(b';') {
            self.skip(is_space);
            let name =
                self.take(|byte| !matches!(byte, b'=' | b',' | b';' | b')') && !is_space(byte));
            if self.eat(b'=') {
                self.bare();
            } else if of.is_none() {
                of = Some(name);
            }
        }
        of
    }

    fn inner_list(&mut self, mut each: impl FnMut(Item<'a>)) {
        for _ in 0..MOST_ITEMS {
            self.skip(is_space);
            if self.rest.is_empty() || self.eat(b')') {
                return;
            }
            let before = self.rest.len();
            let item = self.item();
            if self.rest.len() == before {
                // Nothing that can be an item: leave the rest of the list.
                return;
            }
            each(item);
        }
    }
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}
