//! Window and session stores commit exactly as [`Timed`](crate::timed::Timed) does.

macro_rules! delegate_store {
    ($store:ty, $field:ident) => {
        impl $crate::Store for $store {
            fn name(&self) -> &str {
                &self.$field.name
            }

            fn seal(
                &mut self,
                changelog: &mut dyn FnMut($crate::Change<'_>),
            ) -> Result<(), $crate::StateError> {
                self.$field.seal(changelog)
            }

            fn settle(&mut self) {
                self.$field.settle();
            }

            fn discard(&mut self) {
                self.$field.discard();
            }

            fn restore(&mut self, change: $crate::Change<'_>) -> Result<(), $crate::StateError> {
                self.$field.restore(change)
            }

            fn apply(&mut self, max_entries: usize) -> Result<bool, $crate::StateError> {
                self.$field.apply(max_entries)
            }

            fn settled_bytes(&self) -> usize {
                self.$field.settled_bytes()
            }

            fn dirty_bytes(&self) -> usize {
                self.$field.dirty_bytes()
            }

            fn clear(&mut self) -> Result<(), $crate::StateError> {
                self.$field.clear()
            }
        }
    };
}

pub(crate) use delegate_store;
