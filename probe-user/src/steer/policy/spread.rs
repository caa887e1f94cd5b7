//! Where traffic goes that is turned away: to all that have room, by how much room they have, and
//! never all to the one that looks best.

use crate::qoe::blame::WHOLE_PPM;

/// Divides `demand` over targets by their headroom, in the same unit. No target gets more than its
/// headroom; what finds no room is left over and stays where it is. With several targets none gets
/// more than `most_ppm` of what is divided.
pub fn spread(demand: u64, headroom: &[u64], most_ppm: u32) -> (Vec<u64>, u64) {
    let room: u128 = headroom.iter().map(|room| u128::from(*room)).sum();
    if room == 0 || demand == 0 {
        return (vec![0; headroom.len()], demand);
    }
    let most = if headroom.iter().filter(|room| **room > 0).count() > 1 {
        let most = u128::from(demand) * u128::from(most_ppm) / u128::from(WHOLE_PPM);
        u64::try_from(most).unwrap_or(demand)
    } else {
        demand
    };
    let placed = u128::from(demand).min(room);
    let share = |own: &u64| {
        // Rounded down, so that the shares are never more than there is.
        let share = placed * u128::from(*own) / room;
        u64::try_from(share).unwrap_or(u64::MAX).min(*own).min(most)
    };
    let shares: Vec<u64> = headroom.iter().map(share).collect();
    let given: u64 = shares.iter().sum();
    (shares, demand - given)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn it_goes_by_room_and_not_to_the_best() {
        assert_eq!(spread(100, &[300, 100, 0], 750_000), (vec![75, 25, 0], 0));
        assert_eq!(spread(100, &[30, 10], WHOLE_PPM), (vec![30, 10], 60));
        assert_eq!(spread(100, &[1000, 1], 600_000), (vec![60, 0], 40));
        assert_eq!(spread(100, &[], WHOLE_PPM), (vec![], 100));
    }

    proptest! {
        #[test]
        fn never_argmax_and_never_beyond_headroom(
            demand in 0..u64::MAX / 4,
            headroom in proptest::collection::vec(0..u64::MAX / 64, 0..16),
            most_ppm in 0..=WHOLE_PPM,
        ) {
            let (shares, left) = spread(demand, &headroom, most_ppm);
            prop_assert_eq!(shares.len(), headroom.len());
            prop_assert_eq!(shares.iter().sum::<u64>() + left, demand);
            let several = headroom.iter().filter(|room| **room > 0).count() > 1;
            for (share, room) in shares.iter().zip(&headroom) {
                prop_assert!(share <= room);
                if several {
                    let most = u128::from(demand) * u128::from(most_ppm) / 1_000_000;
                    prop_assert!(u128::from(*share) <= most);
                }
            }
        }
    }
}
