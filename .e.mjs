import { Database } from './.build/src/database/database.js'
import { dashboardSql } from './.build/src/database/sql/dashboard.js'
const db=new Database(process.env.U)
const sql=dashboardSql('twinbox')
await db.transaction(async c=>{await c.query(sql.limitPoll);
for(let i=0;i<2;i++){const e=await c.query({text:'explain (analyze,costs off) '+sql.boxes.text,values:sql.boxes.bind({sample:30,most:10000,topics:20,sinceMs:2000})});if(i)console.log(e.rows.map(x=>Object.values(x)[0]).filter(l=>/actual/.test(l)&&/actual time/.test(l)).filter(l=>Number(/\.\.([\d.]+)/.exec(l)[1])*Number(/loops=(\d+)/.exec(l)[1])>4).map(l=>l.slice(0,190)).join('\n'))}
})
await db.close()
