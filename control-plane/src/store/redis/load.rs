//! Reads all that the registry holds, as it stood at one revision.
//!
//! It is read in pages, so that Redis serves others in between, and with each page come the changes that were made
//! meanwhile. A page shows every entry as it stood at some revision since the first page, so that all of these
//! changes, applied in order, lead from there to the last one's revision, whatever each page had seen of them.
//!
//! Deliberately absent: leases, which change without a revision.

use std::{collections::HashMap, sync::Arc};

use waypost_proto::{
    name::{InstanceKey, ServiceKey},
    resource::ResourceKey,
};

use super::{
    change::{self, Entry},
    link::Link,
    scripts::{self, Request},
    settings::Keys,
};
use crate::store::{Commit, EmptyService, Loaded, PastEvent, Record, Resource, StoreError, Written};

/// Instances in a page, and changes that come with it.
const PAGE: usize = 500;
/// How often reading begins again where changes were forgotten before they were read.
const ATTEMPTS: usize = 5;

/// One answer of `read.lua`.
pub(super) struct Page {
    /// The registry's history.
    pub(super) history: String,
    /// The newest revision.
    pub(super) revision: u64,
    complete: bool,
    instances: Vec<(String, Vec<u8>)>,
    changes: Vec<Entry>,
    /// The oldest change that is remembered.
    oldest: Option<u64>,
}

type Answer = (String, u64, String, Vec<String>, Vec<Option<Vec<u8>>>, Vec<Entry>, Vec<Entry>);

impl Page {
    /// The request for the instances behind a name and the changes after a revision.
    pub(super) fn request(keys: &Keys, behind: Option<&str>, instances: usize, after: u64) -> Request {
        Request::script(&scripts::READ, &keys.all)
            .arg(behind.map_or_else(|| "-".to_owned(), |name| format!("({name}")))
            .arg(instances)
            .arg(following(after))
            .arg(PAGE)
    }

    /// What the answer says.
    pub(super) fn read(answer: Answer) -> Result<Self, StoreError> {
        let (history, revision, complete, names, contents, changes, first) = answer;
        let missing = |name: &str| change::malformed(name, "its contents are missing");
        let instances = names.into_iter().zip(contents);
        let instances = instances
            .map(|(name, contents)| contents.ok_or_else(|| missing(&name)).map(|bytes| (name, bytes)));
        Ok(Self {
            history,
            revision,
            complete: !complete.is_empty(),
            instances: instances.collect::<Result<_, _>>()?,
            changes,
            oldest: first.first().map(change::revision).transpose()?,
        })
    }

    /// Checks that all changes after a revision are remembered, and that it is one of this history.
    pub(super) fn remembers(&self, after: u64) -> Result<(), StoreError> {
        let oldest = self.oldest.map_or(self.revision, |oldest| oldest - 1);
        let known = (oldest..=self.revision).contains(&after);
        if known { Ok(()) } else { Err(StoreError::Compacted { oldest }) }
    }
}

/// The least id of a stream that comes after a revision's entry.
fn following(after: u64) -> String {
    format!("{after}-1")
}

/// Reads everything.
pub(super) async fn load(link: &Link, keys: &Keys) -> Result<Loaded, StoreError> {
    for _ in 0..ATTEMPTS {
        if let Some(image) = Image::read(link, keys).await? {
            let events = events(link, keys, image.revision).await?;
            return Ok(image.into_loaded(events));
        }
    }
    Err(StoreError::Unavailable("it changes faster than it can be read".to_owned()))
}

async fn events(link: &Link, keys: &Keys, until: u64) -> Result<Vec<Arc<PastEvent>>, StoreError> {
    let mut events = Vec::new();
    let mut from = "-".to_owned();
    loop {
        let mut range = redis::cmd("XRANGE");
        range.arg(keys.events()).arg(from).arg(format!("{until}-0")).arg("COUNT").arg(PAGE);
        let page: Vec<Entry> = link.ask(&Request::Plain(range)).await?;
        let Some(last) = page.last() else { return Ok(events) };
        from = following(change::revision(last)?);
        for entry in &page {
            events.push(Arc::new(change::past_event(entry)?));
        }
    }
}

/// All that a hash holds, as it stood at one moment or another.
async fn hash(link: &Link, key: &str) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
    let (mut all, mut cursor) = (Vec::new(), 0_u64);
    loop {
        let mut scan = redis::cmd("HSCAN");
        scan.arg(key).arg(cursor).arg("COUNT").arg(PAGE);
        let (next, mut page): (u64, Vec<(String, Vec<u8>)>) = link.ask(&Request::Plain(scan)).await?;
        all.append(&mut page);
        cursor = next;
        if cursor == 0 {
            return Ok(all);
        }
    }
}

/// The registry, while it is read.
struct Image {
    history: String,
    /// All changes up to this one are in.
    revision: u64,
    complete: bool,
    records: HashMap<InstanceKey, Arc<Record>>,
    empty: HashMap<ServiceKey, Arc<EmptyService>>,
    resources: HashMap<ResourceKey, Arc<Resource>>,
    changes: Vec<Entry>,
}

impl Image {
    /// `None`: what has changed meanwhile was forgotten before it was read.
    async fn read(link: &Link, keys: &Keys) -> Result<Option<Self>, StoreError> {
        let first = Self::page(link, keys, None, 0, u64::MAX - 1).await?;
        let mut image = Self {
            history: first.history,
            revision: first.revision,
            complete: first.complete,
            records: HashMap::new(),
            empty: HashMap::new(),
            resources: HashMap::new(),
            changes: Vec::new(),
        };
        let mut behind = None;
        loop {
            let page = Self::page(link, keys, behind.as_deref(), PAGE, image.revision).await?;
            let Some(last) = image.take(page)? else { return Ok(None) };
            behind = Some(last).filter(|name| !name.is_empty());
            if behind.is_none() {
                break;
            }
        }
        for (name, contents) in hash(link, keys.empty()).await? {
            let empty = change::empty_service(&name, &contents)?;
            image.empty.insert(empty.key.clone(), Arc::new(empty));
        }
        for (name, contents) in hash(link, keys.resources()).await? {
            let resource = change::resource(&name, &contents)?;
            image.resources.insert(resource.key.clone(), Arc::new(resource));
        }
        loop {
            let page = Self::page(link, keys, None, 0, image.revision).await?;
            let newest = page.revision;
            if image.take(page)?.is_none() {
                return Ok(None);
            }
            if image.revision == newest {
                break;
            }
        }
        for entry in std::mem::take(&mut image.changes) {
            image.apply(change::commit(&entry)?);
        }
        Ok(Some(image))
    }

    async fn page(
        link: &Link,
        keys: &Keys,
        behind: Option<&str>,
        instances: usize,
        after: u64,
    ) -> Result<Page, StoreError> {
        Page::read(link.ask(&Page::request(keys, behind, instances, after)).await?)
    }

    /// Takes a page in; answers the last instance's name, which is empty where there is none. `None`: some changes are
    /// missing.
    fn take(&mut self, page: Page) -> Result<Option<String>, StoreError> {
        if page.history != self.history || page.revision < self.revision {
            return Ok(None);
        }
        for entry in page.changes {
            if change::revision(&entry)? != self.revision + 1 {
                return Ok(None);
            }
            self.revision += 1;
            self.changes.push(entry);
        }
        if self.revision < page.revision && page.oldest.is_none_or(|oldest| oldest > self.revision + 1) {
            return Ok(None);
        }
        let mut last = String::new();
        for (name, contents) in page.instances {
            let record = change::record(&name, &contents)?;
            self.records.insert(record.key().clone(), Arc::new(record));
            last = name;
        }
        Ok(Some(last))
    }

    fn apply(&mut self, commit: Commit) {
        match commit.written {
            Written::Put(record) => {
                self.empty.remove(record.key().service());
                self.records.insert(record.key().clone(), record);
            }
            Written::Removed { key, emptied } => {
                self.records.remove(&key);
                if let Some(empty) = emptied {
                    self.empty.insert(empty.key.clone(), empty);
                }
            }
            Written::Forgotten(service) => {
                self.empty.remove(&service);
            }
            Written::Completed => self.complete = true,
            Written::Declared(resources) => {
                self.resources.extend(resources.into_iter().map(|resource| (resource.key.clone(), resource)));
            }
        }
    }

    fn into_loaded(self, events: Vec<Arc<PastEvent>>) -> Loaded {
        Loaded {
            history: self.history.into(),
            revision: self.revision,
            complete: self.complete,
            records: self.records.into_values().collect(),
            empty_services: self.empty.into_values().collect(),
            resources: self.resources.into_values().collect(),
            events,
        }
    }
}
