//! Settings of the operators, as [`ssamba_scan`] has them.

use ssamba_contract::op::{self, short_conv};

pub(crate) fn layout(layout: op::Layout) -> ssamba_scan::Layout {
    match layout {
        op::Layout::Channels => ssamba_scan::Layout::Channels,
        op::Layout::Streams => ssamba_scan::Layout::Streams,
    }
}

pub(crate) fn combine(combine: op::Combine) -> ssamba_scan::Combine {
    match combine {
        op::Combine::Sum => ssamba_scan::Combine::Sum,
        op::Combine::None => ssamba_scan::Combine::None,
    }
}

pub(crate) fn activation(activation: short_conv::Activation) -> ssamba_scan::Activation {
    match activation {
        short_conv::Activation::Silu => ssamba_scan::Activation::Silu,
        short_conv::Activation::None => ssamba_scan::Activation::None,
    }
}
