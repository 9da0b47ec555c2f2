//! Typed access to a node's attributes. What an importer didn't ask for is refused at the end,
//! so that no attribute is ever silently ignored.

use std::cell::RefCell;
use std::rc::Rc;

use super::failure::{Failure, invalid, unsupported};
use super::proto::{AttributeProto, GraphProto, TensorProto, attribute_type};

/// An attribute under the name that its node gives it.
pub(crate) type Named<'a> = (&'a str, &'a AttributeProto);

/// The attributes of one node and which of them have been read; a clone shares what it has read.
#[derive(Clone)]
pub(crate) struct Attributes<'a> {
    list: Vec<Named<'a>>,
    used: Rc<RefCell<Vec<bool>>>,
}

impl<'a> Attributes<'a> {
    pub(crate) fn new(list: &'a [AttributeProto]) -> Attributes<'a> {
        Attributes::resolved(list, None)
    }

    /// The attributes of a node in the body of a function that is called with `given`: a reference
    /// stands for the caller's attribute, and is absent when the caller left that out.
    pub(crate) fn resolved(
        list: &'a [AttributeProto],
        given: Option<&[Named<'a>]>,
    ) -> Attributes<'a> {
        let resolve = |attribute: &'a AttributeProto| -> Option<Named<'a>> {
            let target = match (attribute.ref_attr_name(), given) {
                ("", _) | (_, None) => attribute,
                (of, Some(given)) => given.iter().find(|(name, _)| *name == of)?.1,
            };
            Some((attribute.name(), target))
        };
        let list: Vec<Named<'a>> = list.iter().filter_map(resolve).collect();
        let used = Rc::new(RefCell::new(vec![false; list.len()]));
        Attributes { list, used }
    }

    /// All of them.
    pub(crate) fn list(&self) -> &[Named<'a>] {
        &self.list
    }

    /// Refuses an attribute that occurs twice.
    pub(crate) fn check_names(&self) -> Result<(), Failure> {
        let mut names: Vec<&str> = self.list.iter().map(|(name, _)| *name).collect();
        names.sort_unstable();
        match names.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => Err(invalid(format!("attribute `{}` occurs twice", pair[0]))),
            None => Ok(()),
        }
    }

    /// Refuses what hasn't been read.
    pub(crate) fn check_all_read(&self) -> Result<(), Failure> {
        let used = self.used.borrow();
        let unread = self
            .list
            .iter()
            .zip(used.iter())
            .find(|((name, _), used)| !**used && *name != "doc_string");
        match unread {
            Some(((name, _), _)) => Err(unsupported(
                format!("attribute `{name}` is not known"),
                "remove it if the model doesn't need it",
            )),
            None => Ok(()),
        }
    }

    fn find(&self, name: &str, r#type: i32) -> Result<Option<&'a AttributeProto>, Failure> {
        let Some(index) = self.list.iter().position(|(own, _)| *own == name) else {
            return Ok(None);
        };
        self.used.borrow_mut()[index] = true;
        let attribute = self.list[index].1;
        if !attribute.ref_attr_name().is_empty() {
            return Err(invalid(format!(
                "attribute `{name}` refers to an attribute of a function"
            )));
        }
        let actual = attribute.r#type();
        // The first IR versions had no type field.
        if actual != r#type && actual != attribute_type::UNDEFINED {
            return Err(invalid(format!(
                "attribute `{name}` has type {}, not {}",
                type_name(actual),
                type_name(r#type)
            )));
        }
        Ok(Some(attribute))
    }

    /// True when the attribute is given.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.list.iter().any(|(own, _)| *own == name)
    }

    /// Marks an attribute that has no influence on what is imported.
    pub(crate) fn ignore(&self, name: &str) {
        if let Some(index) = self.list.iter().position(|(own, _)| *own == name) {
            self.used.borrow_mut()[index] = true;
        }
    }

    pub(crate) fn optional_int(&self, name: &str) -> Result<Option<i64>, Failure> {
        let Some(attribute) = self.find(name, attribute_type::INT)? else {
            return Ok(None);
        };
        // proto2 writers may leave out a value that is zero.
        Ok(Some(attribute.i()))
    }

    pub(crate) fn int(&self, name: &str, default: i64) -> Result<i64, Failure> {
        Ok(self.optional_int(name)?.unwrap_or(default))
    }

    /// An INT without a default.
    pub(crate) fn required_int(&self, name: &str) -> Result<i64, Failure> {
        self.optional_int(name)?.ok_or_else(|| invalid(format!("attribute `{name}` is missing")))
    }

    /// An INT that is 0 or 1.
    pub(crate) fn flag(&self, name: &str, default: bool) -> Result<bool, Failure> {
        match self.int(name, i64::from(default))? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(invalid(format!("attribute `{name}` is {other}, not 0 or 1"))),
        }
    }

    pub(crate) fn ints(&self, name: &str) -> Result<Option<&'a [i64]>, Failure> {
        Ok(self.find(name, attribute_type::INTS)?.map(|a| a.ints.as_slice()))
    }

    /// INTS without a default.
    pub(crate) fn required_ints(&self, name: &str) -> Result<&'a [i64], Failure> {
        self.ints(name)?.ok_or_else(|| invalid(format!("attribute `{name}` is missing")))
    }

    /// `count` INTS within a range, or a default for each.
    pub(crate) fn ints_within(
        &self,
        name: &str,
        count: usize,
        default: i64,
        range: std::ops::RangeInclusive<i64>,
    ) -> Result<Vec<i64>, Failure> {
        let values = self.ints(name)?.map_or_else(|| vec![default; count], <[i64]>::to_vec);
        if values.len() != count {
            return Err(invalid(format!("{name} {values:?}: {count} numbers are expected")));
        }
        match values.iter().all(|value| range.contains(value)) {
            true => Ok(values),
            false => Err(invalid(format!("{name} {values:?} out of range"))),
        }
    }

    pub(crate) fn float(&self, name: &str, default: f32) -> Result<f32, Failure> {
        Ok(self.find(name, attribute_type::FLOAT)?.map_or(default, |a| a.f()))
    }

    pub(crate) fn floats(&self, name: &str) -> Result<Option<&'a [f32]>, Failure> {
        Ok(self.find(name, attribute_type::FLOATS)?.map(|a| a.floats.as_slice()))
    }

    pub(crate) fn string(&self, name: &str, default: &'static str) -> Result<&'a str, Failure> {
        let Some(attribute) = self.find(name, attribute_type::STRING)? else {
            return Ok(default);
        };
        let bytes = attribute.s.as_deref().unwrap_or_default();
        std::str::from_utf8(bytes).map_err(|_| invalid(format!("attribute `{name}` is not UTF-8")))
    }

    pub(crate) fn strings(&self, name: &str) -> Result<Option<Vec<&'a str>>, Failure> {
        let Some(attribute) = self.find(name, attribute_type::STRINGS)? else {
            return Ok(None);
        };
        let texts = attribute.strings.iter().map(|bytes| std::str::from_utf8(bytes));
        let texts: Result<Vec<&str>, _> = texts.collect();
        texts.map(Some).map_err(|_| invalid(format!("attribute `{name}` is not UTF-8")))
    }

    /// A subgraph, which must be there.
    pub(crate) fn graph(&self, name: &str) -> Result<&'a GraphProto, Failure> {
        let attribute = self.find(name, attribute_type::GRAPH)?;
        attribute
            .and_then(|attribute| attribute.g.as_deref())
            .ok_or_else(|| invalid(format!("attribute `{name}` holds no graph")))
    }

    pub(crate) fn tensor(&self, name: &str) -> Result<Option<&'a TensorProto>, Failure> {
        let Some(attribute) = self.find(name, attribute_type::TENSOR)? else {
            return Ok(None);
        };
        match attribute.t.as_deref() {
            Some(tensor) => Ok(Some(tensor)),
            None => Err(invalid(format!("attribute `{name}` holds no tensor"))),
        }
    }
}

fn type_name(number: i32) -> String {
    const NAMES: [&str; 9] =
        ["UNDEFINED", "FLOAT", "INT", "STRING", "TENSOR", "GRAPH", "FLOATS", "INTS", "STRINGS"];
    usize::try_from(number)
        .ok()
        .and_then(|n| NAMES.get(n))
        .map_or_else(|| format!("#{number}"), |name| (*name).to_owned())
}
