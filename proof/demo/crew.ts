import { account, Crew as AnyCrew, type Member as AnyMember } from '../stage/crew.ts'
import type { News, Order, Role, Seen } from './child.ts'
import type { Published } from './publisher.ts'

export type Member = AnyMember<Role>

/** The processes of one demo. */
export class Crew extends AnyCrew<Role, Order, News> {
  onSeen: (member: Member, seen: Seen) => void = () => {}
  published: Published | null = null

  constructor() {
    super(new URL('./child.js', import.meta.url))
    this.onNews = (member, news) => {
      if (news.type === 'published') {
        this.published = news.result
        this.tell(member, { type: 'stop' })
        member.state = 'stopping'
      } else {
        for (const seen of news.seen) {
          account(member, seen.event)
          this.onSeen(member, seen)
        }
      }
    }
  }
}
