//! Dividing an amount by weights, in whole units, so that the parts add up to it exactly.

/// Divides `amount` in proportion to `weights` by largest remainder: each part is rounded down, and the units that are
/// left go one by one to the parts that lost most, of equal ones to the first. A negative amount is divided like a
/// positive one. No weights, no parts; weights that are all 0 count as equal.
pub(super) fn apportion(amount: i64, weights: &[u64]) -> Vec<i64> {
    let total: u128 = weights.iter().map(|weight| u128::from(*weight)).sum();
    if total == 0 {
        let equal = vec![1; weights.len()];
        return match weights.is_empty() {
            true => Vec::new(),
            false => apportion(amount, &equal),
        };
    }
    let magnitude = u128::from(amount.unsigned_abs());
    let exact = |weight: &u64| {
        let product = magnitude * u128::from(*weight);
        (product / total, product % total)
    };
    let (mut parts, remainders): (Vec<u128>, Vec<u128>) = weights.iter().map(exact).unzip();
    let left = magnitude - parts.iter().sum::<u128>();
    let mut order: Vec<usize> = (0..parts.len()).collect();
    // Stable: of equal remainders the first comes first.
    order.sort_by_key(|&i| std::cmp::Reverse(remainders[i]));
    let left = usize::try_from(left).expect("fewer units are left than there are parts");
    for &i in &order[..left] {
        parts[i] += 1;
    }
    let signed = |part: u128| {
        let part = i128::try_from(part).expect("no part is larger than the amount");
        let part = if amount < 0 { -part } else { part };
        i64::try_from(part).expect("no part is larger than the amount")
    };
    parts.into_iter().map(signed).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_left_goes_to_the_largest_remainders_and_of_equal_ones_to_the_first() {
        assert_eq!(apportion(10, &[1, 1, 1]), [4, 3, 3]);
        assert_eq!(apportion(11, &[1, 1, 1]), [4, 4, 3]);
        assert_eq!(apportion(100, &[40, 20, 40]), [40, 20, 40]);
        // 0.6, 1.8 and 0.6 of 3.
        assert_eq!(apportion(3, &[1, 3, 1]), [1, 2, 0]);
        assert_eq!(apportion(-10, &[1, 1, 1]), [-4, -3, -3]);
        assert_eq!(apportion(0, &[1, 2]), [0, 0]);
        assert!(apportion(5, &[]).is_empty());
        assert_eq!(apportion(5, &[0, 0]), [3, 2]);
    }

    proptest! {
        #[test]
        fn parts_add_up_and_are_off_by_less_than_a_unit(
            amount in any::<i64>(),
            weights in prop::collection::vec(0..=1_u64 << 62, 1..60),
        ) {
            let parts = apportion(amount, &weights);
            prop_assert_eq!(parts.iter().map(|p| i128::from(*p)).sum::<i128>(), i128::from(amount));
            let total: u128 = weights.iter().map(|w| u128::from(*w)).sum();
            for (part, weight) in parts.iter().zip(&weights) {
                let product = u128::from(amount.unsigned_abs()) * u128::from(*weight);
                let part = u128::from(part.unsigned_abs());
                if let Some(floor) = product.checked_div(total) {
                    prop_assert!(part == floor || part == floor + 1);
                }
            }
        }
    }
}
